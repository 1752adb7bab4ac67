"""What an iteration learns from: rollouts with their rewards, values and advantages, before any update."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ftune.ppo.sequences import Sequences, micro_batches
from ftune.ppo.settings import Algorithm
from ftune.rl.advantages import gae, token_rewards
from ftune.rl.kl import Estimator, kl_estimate
from ftune.rl.moments import Reduce, whiten


@dataclass(frozen=True, slots=True)
class Judged:
    """Rollouts under the policy that made them and under the reference; all (B, T) in fp32."""

    sequences: Sequences
    mask_BT: torch.Tensor
    logprobs_BT: torch.Tensor
    entropy_BT: torch.Tensor
    values_BT: torch.Tensor
    last_values_B: torch.Tensor
    reference_BT: torch.Tensor

    @property
    def kl_B(self) -> torch.Tensor:
        """KL to the reference in nats a completion, estimated by k1."""
        return ((self.logprobs_BT - self.reference_BT) * self.mask_BT).sum(1)


@dataclass(frozen=True, slots=True)
class Experience:
    """Judged rollouts with what the losses need."""

    judged: Judged
    mask_BT: torch.Tensor
    """0.0 also for completions that are left out: those without a score, or cut ones where the recipe says so."""
    advantages_BT: torch.Tensor
    returns_BT: torch.Tensor
    raw_advantages_BT: torch.Tensor
    """Before whitening."""


@torch.no_grad()
def judge(actor: Callable[..., object], sequences: Sequences, micro_batch_size: int, *, reference: bool) -> Judged:
    """Log-probabilities, values and the reference's log-probabilities, computed with the forward pass of training.

    `actor` is the (wrapped) ActorCritic. Without `reference` the policy's own log-probabilities stand for it.
    """
    mask = sequences.mask_BT
    names = ("logprobs", "entropy", "values", "reference")
    found = {name: torch.zeros_like(mask) for name in names}
    last_values = torch.zeros_like(mask[:, 0])
    for index in micro_batches(sequences.ends_B, micro_batch_size):
        part = sequences.rows(index)
        out = actor("policy", part.ids_BS, part.starts_B, part.ends_B)
        width = out.logprobs_BT.shape[1]  # type: ignore[attr-defined]
        reference_BT = actor("reference", part.ids_BS, part.starts_B, part.ends_B) if reference else out.logprobs_BT  # type: ignore[attr-defined]
        for name, value in zip(names, (*out[:3], reference_BT), strict=True):  # type: ignore[index]
            found[name][index, :width] = value
        last_values[index] = out.last_values_B  # type: ignore[attr-defined]
    return Judged(
        sequences, mask, found["logprobs"], found["entropy"], found["values"], last_values, found["reference"]
    )


@torch.no_grad()
def experience(
    judged: Judged,
    scores_B: torch.Tensor,
    stopped_B: torch.Tensor,
    *,
    settings: Algorithm,
    estimator: Estimator,
    coefficient: float,
    reduce: Reduce,
) -> Experience:
    """Rewards of tokens, advantages and returns. A NaN among the processed scores leaves its completion out."""
    left_out = scores_B.isnan()
    if settings.truncated == "mask":
        left_out = left_out | ~stopped_B
    mask = judged.mask_BT * (~left_out).float()[:, None]
    kl = kl_estimate(judged.logprobs_BT, judged.reference_BT, estimator)
    rewards = token_rewards(scores_B.nan_to_num(0.0), kl, mask, coefficient)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, reduce, shift_mean=False)
    bootstrap = judged.last_values_B * (~stopped_B) if settings.truncated == "bootstrap" else None
    raw, returns = gae(rewards, judged.values_BT, mask, settings.gamma, settings.lam, bootstrap)
    advantages = whiten(raw, mask, reduce) if settings.whiten_advantages else raw
    return Experience(judged, mask, advantages, returns, raw)
