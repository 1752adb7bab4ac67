"""transformers' `generate_batch`: rows enter and leave the running batch one by one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from transformers import ContinuousBatchingConfig, PreTrainedModel

from ftune.core.errors import ModelError
from ftune.ppo.rollout.base import Policy, Rollout, Sampling
from ftune.ppo.rollout.engines.completion import completion
from ftune.ppo.rollout.engines.undisturbed import causal_model, pure_sampling, undisturbed

PAGE = 64
"""Tokens of a cache page."""
BATCH_TOKENS = 8192
"""Tokens of one forward pass, prompts included: bounds the memory of logits and attention masks."""
NO_STOP = -1


class PagedEngine:
    """The cache lives for one call, so no key or value of older weights is ever read."""

    def __init__(self, policy: Policy, memory_fraction: float) -> None:
        self.name = "continuous"
        self._policy = policy
        self._memory_fraction = memory_fraction
        self._model = causal_model(policy.model)
        attention = self._model.config._attn_implementation
        if attention not in ("sdpa", "eager", "paged|eager") and "flash" not in attention:
            raise ModelError(
                f"rollout.type: continuous batching cannot run attention '{attention}'; "
                "set model.attention=sdpa or rollout.type=generate"
            )
        if policy.autocast not in (None, self._model.dtype):
            weights, products = (str(dtype).removeprefix("torch.") for dtype in (self._model.dtype, policy.autocast))
            raise ModelError(
                f"rollout.type: the cache of continuous batching has the format of the weights, {weights}, which keys "
                f"made in {products} do not fit; load the model in {products} or set rollout.type=generate"
            )

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Rollout]:
        """One completion of each prompt, in their order. Raises ModelError when a row failed."""
        if not prompts:
            return []
        policy = self._policy
        config = pure_sampling(sampling, policy.pad_id, policy.stop_ids or (NO_STOP,))
        with undisturbed(self._model, seed), _autocast_forward(self._model, policy.autocast):
            try:
                outputs = list(
                    self._model.generate_batch(
                        list(prompts),
                        generation_config=config,
                        continuous_batching_config=self._batching(prompts, sampling, seed),
                    ).values()
                )
            except (ValueError, MemoryError, NotImplementedError, AttributeError) as error:
                raise self._failed(error) from error
        for output in outputs:
            if output.error is not None:
                raise self._failed(output.error)
        if len(outputs) != len(prompts):
            raise self._failed(f"{len(outputs)} of {len(prompts)} completions came back")
        rows = zip(prompts, outputs, strict=True)
        return [completion(ids, made.generated_tokens, made.logprobs, policy.stop_ids) for ids, made in rows]

    def policy_changed(self) -> None:
        """Nothing to do: the model itself generates, with a new cache each time."""

    def rest(self) -> None:
        """Nothing to do: cache and graphs went with the call."""

    def _batching(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> ContinuousBatchingConfig:
        """On a GPU the allowed share of what is free; on a CPU as much as these rows can fill."""
        pages = sum(-(-(len(prompt) + sampling.max_new_tokens) // PAGE) for prompt in prompts)
        on_cpu = self._model.device.type == "cpu"
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=pages + 1 if on_cpu else None,
            max_batch_tokens=min(BATCH_TOKENS, sum(map(len, prompts)) + len(prompts)),
            max_memory_percent=self._memory_fraction,
            return_logprobs=True,
            seed=seed,
            auto_switch_to_flash=False,
            allow_block_sharing=False,
        )

    def _failed(self, error: object) -> ModelError:
        kind = type(self._model).__name__
        return ModelError(f"rollout.type: continuous batching of {kind} failed: {error}; use rollout.type=generate")


@contextmanager
def _autocast_forward(model: PreTrainedModel, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast in every forward pass: generation runs in a thread of its own, which inherits no autocast."""
    if dtype is None:
        yield
        return
    entered = ExitStack()

    def enter(module: torch.nn.Module, args: object) -> None:
        entered.enter_context(torch.autocast(model.device.type, dtype=dtype))

    def leave(module: torch.nn.Module, args: object, output: object) -> None:
        entered.close()

    hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
