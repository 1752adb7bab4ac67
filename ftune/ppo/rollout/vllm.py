"""Rollouts by vLLM: a server on other GPUs, or an engine beside training on the same ones.

Never run against a real vLLM yet: it needs a GPU and a package that our tests do not have. What is tested is the
stream of weights and, in `server` mode, the requests.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.core.section import Location
from ftune.ppo.rollout.base import Engine, Policy, RolloutEngine


class Vllm(RolloutEngine):
    """Weights are sent once an iteration, each summed with its adapter beside the model, never merged in place."""

    type: Literal["vllm"] = "vllm"
    """vLLM, as a server or in the training process."""

    mode: Literal["server", "colocate"] = "server"
    """`server`: on other GPUs, started with `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config
    '{"backend": "nccl"}' --logprobs-mode processed_logprobs`; `colocate`: in the training process, on its GPU."""

    url: Annotated[str, Field(pattern="^https?://")] = "http://localhost:8000"
    """Address of the server."""

    group_port: Annotated[int, Field(ge=1, le=65535)] = 51216
    """Port over which weights travel to the server."""

    timeout_s: Annotated[float, Field(ge=0)] = 240.0
    """How long to wait for the server to be up."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the GPU's memory for vLLM's weights and cache in `colocate` mode."""

    @model_validator(mode="after")
    def _keys_fit_the_mode(self) -> Self:
        others = {"server": {"gpu_memory_utilization"}, "colocate": {"url", "group_port", "timeout_s"}}[self.mode]
        if unused := sorted(others & self.model_fields_set):
            raise ValueError(f"{unused[0]}: means nothing in mode '{self.mode}'; remove it")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A missing vLLM."""
        if find_spec("vllm") is None:
            yield ("type",), "needs the vllm package; pip install 'ftune[vllm]', or use type: auto"

    def open(self, policy: Policy) -> Engine:
        """The engine at work. Raises LaunchError without a GPU or server, ModelError for other adapters than LoRA."""
        from ftune.ppo.rollout.engines.vllm import open_beside, open_server

        if self.mode == "server":
            return open_server(policy, self.url, self.group_port, self.timeout_s)
        return open_beside(policy, self.gpu_memory_utilization)
