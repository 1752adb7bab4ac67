"""Rollouts at the speed of the GPU: static cache, compiled blocks, one CUDA graph a step, adapters active."""

from typing import TYPE_CHECKING, Literal

from ftune.core.errors import FtuneError
from ftune.ppo.rollout.base import Count, Engine, Policy, RolloutEngine

if TYPE_CHECKING:
    from ftune.ppo.rollout.graphs.layout import Layout
    from ftune.ppo.rollout.graphs.weights import Mode


class Graph(RolloutEngine):
    """Our own decode pass for Llama, Mistral, Qwen2, Qwen3 and models of their making, on one GPU each process."""

    type: Literal["graph"] = "graph"

    weights: Literal["auto", "shared", "merged"] = "auto"
    """`merged` decodes with a copy of the weights that has the adapters added (fastest; the base stays as it is, the
    copy is freed while training), `shared` with the base's own weights and the adapters beside them; `auto` takes
    `merged` where the copy fits into a quarter of the free memory."""

    micro_batch_size: Count = 256
    """Prompts that a device completes at once; fewer where memory lacks."""

    def open(self, policy: Policy) -> Engine:
        """The engine at work. Raises ModelError when it cannot serve this model, or its logits are not the model's."""
        from ftune.ppo.rollout.graphs.engine import GraphEngine

        layout, mode = _proven(policy, self.weights)
        return GraphEngine(policy, layout, mode, self.micro_batch_size)


def graph_serves(policy: Policy) -> str:
    """Why the graph engine is not for this model or machine; empty if it is."""
    if policy.model.device.type != "cuda":
        return f"the model is on the {policy.model.device.type}; the graph engine is made for GPUs"
    try:
        _proven(policy, "auto")
    except FtuneError as error:
        return str(error)
    return ""


def _proven(policy: Policy, weights: Literal["auto", "shared", "merged"]) -> tuple["Layout", "Mode"]:
    """The model's parts and how weights are read, after our pass has given the model's logits. Raises ModelError."""
    from ftune.ppo.rollout.graphs.engine import free_bytes
    from ftune.ppo.rollout.graphs.layout import read_layout
    from ftune.ppo.rollout.graphs.proof import prove
    from ftune.ppo.rollout.graphs.weights import check_mode, merged_bytes

    layout = read_layout(policy)
    if weights == "auto":
        free = free_bytes(layout.device)
        weights = "merged" if free is None or merged_bytes(layout) <= free / 4 else "shared"
    check_mode(layout, weights)
    prove(policy, layout, weights)
    return layout, weights
