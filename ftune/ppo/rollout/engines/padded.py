"""transformers' `generate`: prompts padded on the left, one token of all rows a step.

Shapes: B rows of a micro-batch, P the longest prompt, T new tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from ftune.ppo.rollout.base import Policy, Rollout, Sampling
from ftune.ppo.rollout.engines.completion import completion
from ftune.ppo.rollout.engines.undisturbed import causal_model, pure_sampling, undisturbed


class PaddedEngine:
    """Works everywhere, through adapters as they are; nothing is kept between calls."""

    def __init__(self, policy: Policy, micro_batch_size: int) -> None:
        self.name = "generate"
        self._policy = policy
        self._model = causal_model(policy.model)
        self._micro_batch_size = micro_batch_size

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Rollout]:
        """One completion of each prompt, in their order; prompts of like length share a micro-batch."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        made: dict[int, Rollout] = {}
        policy = self._policy
        autocast = torch.autocast(self._model.device.type, dtype=policy.autocast, enabled=policy.autocast is not None)
        with undisturbed(self._model, seed), autocast:
            for start in range(0, len(order), self._micro_batch_size):
                chosen = order[start : start + self._micro_batch_size]
                made |= zip(chosen, self._micro_batch([prompts[index] for index in chosen], sampling), strict=True)
        return [made[index] for index in range(len(prompts))]

    def policy_changed(self) -> None:
        """Nothing to do: the model itself generates."""

    def rest(self) -> None:
        """The cache went with each micro-batch; its memory is handed back for tensors of other sizes."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _micro_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[Rollout]:
        width, pad, device = max(map(len, prompts)), self._policy.pad_id, self._model.device
        ids_BP = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # positions follow from the mask, so a row's place on the left does not matter
        mask_BP = (torch.arange(width, device=device) >= width - lengths_B[:, None]).long()
        record = _Record(sampling.temperature)
        whole_BS = self._model.generate(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            generation_config=pure_sampling(sampling, pad, self._policy.stop_ids),
            logits_processor=LogitsProcessorList([record]),
        )
        tokens_BT = whole_BS[:, width:]
        rows = zip(prompts, tokens_BT.tolist(), record.logprobs_BT(tokens_BT).tolist(), strict=True)
        return [completion(*row, self._policy.stop_ids) for row in rows]


class _Record(LogitsProcessor):
    """The log-probability of each drawn token, without keeping the logits of more than one step.

    It stands before temperature, top-k and top-p, so what it sees are the model's logits. Which token was drawn from
    them is known only at the next step, hence the one [B, V] tensor that is kept meanwhile.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._logits_BV: torch.Tensor | None = None
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._settle(input_ids[:, -1])
        self._logits_BV = scores
        return scores

    def logprobs_BT(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Of all tokens, fp32, at the sampling temperature over the whole vocabulary; once, at the end."""
        self._settle(tokens_BT[:, -1])
        self._logits_BV = None
        return torch.stack(self._steps, dim=1)

    def _settle(self, drawn_B: torch.Tensor) -> None:
        if self._logits_BV is not None:
            scaled_BV = self._logits_BV / self._temperature
            self._steps.append(scaled_BV.gather(1, drawn_B[:, None])[:, 0] - scaled_BV.logsumexp(1))
