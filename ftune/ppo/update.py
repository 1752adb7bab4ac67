"""The update: epochs of minibatches over one iteration's experience, normalised by tokens over all ranks."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftune.backends.engines.sharding import whole
from ftune.ppo.averages import Averages
from ftune.ppo.experience import Experience
from ftune.ppo.sequences import micro_batches
from ftune.ppo.settings import Algorithm
from ftune.rl.guard import stops_epoch
from ftune.rl.losses import policy_loss, value_loss
from ftune.rl.moments import Reduce

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftune.ppo.actor_critic import ActorCritic

TextBatch = tuple[torch.Tensor, torch.Tensor]
"""Token ids and labels of ordinary text, both (rows, tokens)."""


@dataclass(frozen=True, slots=True)
class Ptx:
    """Ordinary text that the policy must not forget (PPO-ptx, arXiv:2203.02155, equation 2)."""

    batch: Callable[[int], TextBatch]
    """The micro-batch that goes with an optimiser step of this number."""
    coefficient: float


@dataclass(frozen=True, slots=True)
class Learner:
    """What an update needs beside the experience."""

    actor: Callable[..., Any]
    """The ActorCritic as accelerate wrapped it."""
    inner: "ActorCritic"
    optimizer: torch.optim.Optimizer
    accelerator: "Accelerator"
    settings: Algorithm
    reduce: Reduce
    max_grad_norm: float
    target_kl: float | None
    ptx: Ptx | None = None


@dataclass(slots=True)
class Updated:
    """How an update went."""

    averages: Averages
    steps: int = 0
    """Optimiser steps that were taken."""
    skipped: int = 0
    """Steps that were not, because the loss or the ratio was out of bounds."""
    why: str = ""
    first_ratio_gap: float = 0.0
    """Largest |ratio - 1| of the first minibatch: 0 where the update computes as the rollouts were judged."""
    stopped_early: bool = False


def update(learner: Learner, experience: Experience, *, seed: list[int], first_step: int, value_only: bool) -> Updated:
    """Train on the experience. `seed` decides the order of the rollouts, `first_step` is the number of steps so far."""
    done = Updated(Averages(experience.mask_BT.device))
    for number, index in enumerate(_minibatches(learner, experience, seed)):
        kl = _step(learner, experience, index, done, first_step + number, first=number == 0, value_only=value_only)
        if learner.target_kl is not None and stops_epoch(kl, learner.target_kl):
            done.stopped_early = True
            break
    return done


def _minibatches(learner: Learner, experience: Experience, seed: list[int]) -> Iterator[torch.Tensor]:
    """Indexes of this rank's share of each minibatch, every rollout once an epoch."""
    share = learner.settings.minibatch_size // learner.accelerator.num_processes
    rows = experience.mask_BT.shape[0]
    for epoch in range(learner.settings.epochs):
        order = np.random.default_rng([*seed, epoch]).permutation(rows)
        yield from torch.split(torch.from_numpy(order).to(experience.mask_BT.device), share)


def _step(
    learner: Learner,
    experience: Experience,
    index: torch.Tensor,
    done: Updated,
    number: int,
    *,
    first: bool,
    value_only: bool,
) -> float:
    """One optimiser step on the rollouts `index`; the approximate KL to the policy that made them, over all ranks.

    Losses are sums over the minibatch divided by its tokens on all ranks, times the number of ranks, since accelerate
    averages gradients: neither micro-batches nor ranks change the step.
    """
    mask = experience.mask_BT[index]
    tokens = learner.reduce(mask.sum())
    if not float(tokens):
        return 0.0
    scale = learner.accelerator.num_processes / tokens
    if learner.ptx is not None and not value_only:
        _backward_of_text(learner, learner.ptx, number, done)
    parts = micro_batches(experience.judged.sequences.ends_B[index], learner.settings.micro_batch_size)
    sums = torch.zeros(4, device=mask.device)  # approximate KL, ratio, largest gap of a ratio, loss
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        with nullcontext() if last else learner.accelerator.no_sync(learner.actor):
            loss, seen = _micro_loss(learner, experience, index[part], done, value_only=value_only)
            learner.accelerator.backward(loss * scale)
        sums[:2] += seen[:2]
        sums[2] = torch.maximum(sums[2], seen[2])
        sums[3] += loss.detach()
    if value_only:  # a trunk that both share has gradients of the value, which the policy's optimiser must not see
        for parameter in learner.inner.parameter_groups()["policy"]:
            parameter.grad = None
    parameters = learner.inner.trainable_parameters()
    norm = whole(learner.accelerator.clip_grad_norm_(parameters, learner.max_grad_norm))
    kl, ratio, loss_sum = (learner.reduce(sums[[0, 1, 3]]) / tokens).tolist()
    if first:
        done.first_ratio_gap = float(sums[2])
    done.averages.add("grad_norm", norm)
    finite = np.isfinite([kl, ratio, loss_sum, float(norm)]).all()
    if finite and ratio <= learner.settings.max_ratio:
        learner.optimizer.step()
        done.steps += 1
    else:
        done.skipped += 1
        done.why = f"mean ratio {ratio:.3g}" if finite else f"loss {loss_sum}, gradient norm {float(norm)}"
    learner.optimizer.zero_grad(set_to_none=True)
    return float(kl)


def _micro_loss(
    learner: Learner, experience: Experience, rows: torch.Tensor, done: Updated, *, value_only: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of some rollouts; and the sums of approximate KL and ratio, and the largest |ratio - 1|."""
    settings, judged = learner.settings, experience.judged
    part = judged.sequences.rows(rows)
    out = learner.actor("policy", part.ids_BS, part.starts_B, part.ends_B)
    width = out.logprobs_BT.shape[1]

    def old(whole: torch.Tensor) -> torch.Tensor:
        return whole[rows, :width]

    mask = old(experience.mask_BT)
    policy = policy_loss(
        out.logprobs_BT,
        old(judged.logprobs_BT),
        old(experience.advantages_BT),
        mask,
        clip_low=settings.clip_range,
        clip_high=settings.clip_range_high or settings.clip_range,
        dual_clip=settings.dual_clip,
    )
    value = value_loss(
        out.values_BT,
        old(judged.values_BT),
        old(experience.returns_BT),
        mask,
        clip_range=settings.value_clip_range,
    )
    entropy = (out.entropy_BT * mask).sum()
    count = mask.sum()
    done.averages.add("policy_loss", policy.loss.detach(), count)
    done.averages.add("value_loss", value.loss.detach(), count)
    done.averages.add("clip_fraction", policy.clipped, count)
    done.averages.add("value_clip_fraction", value.clipped, count)
    done.averages.add("approx_kl", policy.approx_kl, count)
    done.averages.add("ratio", policy.ratio, count)
    loss = settings.value_coefficient * value.loss
    if not value_only:
        loss = loss + policy.loss - settings.entropy_coefficient * entropy
    else:  # parameters that only the policy has still take part, with a gradient of zero
        loss = loss + 0.0 * out.logprobs_BT.sum()
    gap = ((out.logprobs_BT.detach() - old(judged.logprobs_BT)).exp() - 1).mul(mask).abs().max()
    return loss, torch.stack([policy.approx_kl, policy.ratio, gap])


def _backward_of_text(learner: Learner, ptx: Ptx, number: int, done: Updated) -> None:
    """Gradients of the language-modelling loss; they are exchanged with those of the policy, so not here."""
    ids, labels = ptx.batch(number)
    with learner.accelerator.no_sync(learner.actor):
        total, count = learner.actor("text", ids, labels=labels)
        tokens = learner.reduce(count.float())
        scale = ptx.coefficient * learner.accelerator.num_processes / tokens.clamp(min=1)
        learner.accelerator.backward(total * scale)
    done.averages.add("ptx_loss", total.detach(), count)
