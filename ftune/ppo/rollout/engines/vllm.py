"""vLLM through TRL's client, given our own stream of weights.

Every prompt has a seed of its own, drawn from the call's: vLLM seeds each request anew, so with one seed for all of
them the completions of equal prompts would be equal.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from trl.generation import vllm_generation
from trl.generation.vllm_client import VLLMClient

from ftune.core.errors import LaunchError
from ftune.ppo.rollout.base import Policy, Rollout, Sampling
from ftune.ppo.rollout.engines.completion import completion
from ftune.ppo.rollout.engines.merged import check_mergeable, merged_parameters

REQUESTS = 64
"""Requests under way at once: the connections that TRL's client keeps."""

Drawn = tuple[list[int], list[float]]
"""Tokens and their log-probabilities."""


class VllmEngine(ABC):
    """What both modes share: weights go over when they are older than the policy, and only when they are needed."""

    def __init__(self, policy: Policy, name: str) -> None:
        self.name = name
        self._policy = policy
        self._stale = True  # vLLM loaded the model from disk, without the adapter

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Rollout]:
        """One completion of each prompt, in their order."""
        if self._stale:
            self._send_weights()
            self._stale = False
        draw = random.Random(seed)  # noqa: S311
        seeds = [draw.getrandbits(31) for _ in prompts]
        drawn = self._draw(prompts, sampling, seeds)
        stops = self._policy.stop_ids
        return [completion(ids, *made, stops) for ids, made in zip(prompts, drawn, strict=True)]

    def policy_changed(self) -> None:
        """The weights are sent again before the next rollout."""
        self._stale = True

    @abstractmethod
    def rest(self) -> None:
        """Give back memory that only generation needs."""

    def _stop_rules(self) -> dict[str, Any]:
        """Only the policy's stop tokens count, not those in the model's own generation settings."""
        return {"stop_token_ids": list(self._policy.stop_ids), "ignore_eos": True}

    @abstractmethod
    def _send_weights(self) -> None: ...

    @abstractmethod
    def _draw(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Drawn]: ...


class ServerEngine(VllmEngine):
    """Every process sends its own prompts; `sender` is the one that also sends the weights."""

    def __init__(self, policy: Policy, client: VLLMClient, *, sender: bool) -> None:
        super().__init__(policy, "vllm (server)")
        self._client = client
        self._sender = sender

    def rest(self) -> None:
        """Nothing to do: the server has GPUs of its own."""

    def _send_weights(self) -> None:
        if self._sender:
            model = self._policy.model
            facts = [
                (name, str(value.dtype).removeprefix("torch."), list(value.shape))
                for name, value in merged_parameters(model)
            ]
            self._client.update_named_params(facts, merged_parameters(model))
            self._client.reset_prefix_cache()
        Accelerator().wait_for_everyone()

    def _draw(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Drawn]:
        def one(prompt: list[int], seed: int) -> Drawn:
            made = self._client.generate(
                [prompt],
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                logprobs=0,
                generation_kwargs={"seed": seed, **self._stop_rules()},
            )
            return made["completion_ids"][0], _chosen(made["logprobs"][0])

        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(one, prompts, seeds))


class _Unmerged(vllm_generation.VLLMGeneration):
    """TRL's engine, which would merge the adapter in place to read the weights."""

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        return merged_parameters(self.model)


class BesideEngine(VllmEngine):
    """vLLM in the training process; its memory sleeps while training goes on."""

    def __init__(self, policy: Policy, generation: _Unmerged) -> None:
        super().__init__(policy, "vllm (colocate)")
        self._generation = generation
        self._awake = False

    def rest(self) -> None:
        """Weights and cache leave the GPU."""
        if self._awake:
            self._generation.llm.sleep(level=2)
        self._awake, self._stale = False, True

    def _send_weights(self) -> None:
        self._generation.sync_weights()
        if not self._awake:
            self._generation.llm.wake_up(tags=["kv_cache"])
        self._awake = True

    def _draw(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Drawn]:
        rules = [
            vllm_generation.SamplingParams(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                logprobs=0,
                seed=seed,
                **self._stop_rules(),
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._generation.llm.generate(inputs, sampling_params=rules, use_tqdm=False)
        logprobs, _ = vllm_generation.extract_logprobs(outputs)
        rows = zip(outputs, logprobs, strict=True)
        return [(list(output.outputs[0].token_ids), _chosen(row)) for output, row in rows]


def open_server(policy: Policy, url: str, group_port: int, timeout_s: float) -> ServerEngine:
    """An engine that talks to a running server. Raises LaunchError when there is none, or no GPU here."""
    _check(policy)
    accelerator = Accelerator()
    try:
        client = VLLMClient(base_url=url, group_port=group_port, connection_timeout=timeout_s)
        if accelerator.is_main_process:
            client.init_communicator(device=policy.model.device)
    except (OSError, RuntimeError, NotImplementedError) as error:
        raise LaunchError(f"rollout.url: {url}: {error}") from None
    return ServerEngine(policy, client, sender=accelerator.is_main_process)


def open_beside(policy: Policy, gpu_memory_utilization: float) -> BesideEngine:
    """An engine in this process, asleep until the first rollout. Raises LaunchError without a GPU."""
    _check(policy)
    generation = _Unmerged(
        policy.model,
        Accelerator(),
        processing_class=None,  # only for images
        mode="colocate",
        gpu_memory_utilization=gpu_memory_utilization,
        enable_sleep_mode=True,
    )
    return BesideEngine(policy, generation)


def _check(policy: Policy) -> None:
    if policy.model.device.type != "cuda":
        raise LaunchError("rollout.type: vllm gets its weights from a GPU, and the policy is on none; use type: auto")
    if any(isinstance(value, DTensor) for value in policy.model.parameters()):
        raise LaunchError("rollout.type: vllm is not fed from sharded weights; use a backend that keeps them whole")
    check_mergeable(policy.model)


def _chosen(logprobs: Sequence[Sequence[float]]) -> list[float]:
    """The drawn token's of each position, the only one asked for."""
    return [position[0] for position in logprobs]
