"""Measures of the proof that a merged model is the one that was trained.

Three models are compared on the same rows of tokens: a the base with the adapter beside it, b the base, m the merged
model. Each has to compute in fp32, whatever its weights are stored in, so that only their rounding is seen: computing
in bf16 makes a KL of 2e-3 by itself (SmolLM2-135M), more than the whole effect of a weak adapter. With p the
probabilities of a, for each token:

    KL(a || m) = sum p (log a - log m)     what merging changed, in nats
    KL(a || b) = sum p (log a - log b)     the adapter's whole effect
    lost = KL(a || m) / KL(a || b)         both go with the square of the change of logits: 0.01 is a tenth of it
    kept = <m - b, a - b> / <a - b, a - b>, <x, y> = cov_p(x, y) summed over tokens, in which KL is half of a square

`kept` is 1 with all of the effect, 0 for the base, 2 when merged twice. Rounding hardly moves it before most updates
are less than half a step of the dtype; then they vanish.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ftune.evals.generate import generate

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["fp32", "bf16", "fp16"]

NOISE = 1e-9
"""KL in nats that fp32 itself makes: effects below it are none."""

TOKENS_AT_ONCE = 64
"""A vocabulary of 128k takes 64 MiB for each of a handful of fp64 tensors."""

MOST_LOST = 0.7
"""A larger share of the effect is lost by a wrong merge, or by a dtype that the adapter is too weak for."""

WORTH_FP32 = 0.2
"""From this share of the effect on, a file in fp32 is offered."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What rounding of the written weights to a dtype explains."""

    kl: float
    """KL(a || m). A larger one passes where it is less than `SMALL_SHARE` of the effect."""
    aside: float
    """(1 - kept)^2 KL(a || b), the part of the lost effect that is not noise. `NEAR_ONE` of `kept` passes always."""
    largest: float
    """Largest difference of logits by the largest logit."""


SMALL_SHARE = 0.01
NEAR_ONE = 0.05

LIMITS: dict[Dtype, Limits] = {
    "fp32": Limits(kl=1e-8, aside=1e-8, largest=1e-4),
    "fp16": Limits(kl=2e-5, aside=5e-7, largest=float("inf")),
    "bf16": Limits(kl=1e-3, aside=3e-5, largest=float("inf")),
}
"""Ten times what right merges were seen to have.

Seen with LoRA of rank 8 and random B on every layer of SmolLM2-135M and of a Llama of 5 layers, B of std 0.02 to 5e-5,
in weights that were bf16. Right merges: KL at most 8e-5 and aside 2.7e-6 in bf16, 1.2e-6 and 3e-8 in fp16; B of std
0.02 / 0.005 / 0.001 / 0.0003 lost 0.8 / 8 / 40 / 78 % on SmolLM2 in bf16, and kept 0.99 / 0.99 / 0.69 / 0.37. Merges
without the update, with twice of it, or with that of other layers lost 100 % and more. Half of it was kept as 0.44 to
0.50, which in bf16 is told from rounding down to std 0.005. One layer of 210 left out does not show in 16 bit.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """How far a merged model is from the adapter on its base; KLs are means over tokens, in nats."""

    rows: int
    tokens: int
    largest: float
    """Largest absolute difference of logits, by the largest absolute logit."""
    mean: float
    """Mean absolute difference of logits, by the same."""
    kl: float
    effect: float
    kept: float
    same_greedy: int
    """Rows whose greedy completion is the same text."""

    @property
    def lost(self) -> float:
        """Share of the adapter's effect that is lost; 0 for an adapter without effect that stayed so."""
        return self.kl / max(self.effect, NOISE)


def measure(
    adapter: Iterable[Tensor],
    base: Iterable[Tensor],
    merged: Iterable[Tensor],
    *,
    completions: tuple[Sequence[str], Sequence[str]],
) -> Measured:
    """Compare the logits of the same rows by the three models, a (tokens, vocabulary) each, one row at a time.

    `completions`: with the adapter, and merged. Raises ValueError when there are not as many of each, or none.
    """
    rows = tokens = numbers = 0
    top = largest = total = kl = effect = along = square = 0.0
    for row in zip(adapter, base, merged, strict=True):
        rows += 1
        for start in range(0, len(row[0]), TOKENS_AT_ONCE):
            a, b, m = (each[start : start + TOKENS_AT_ONCE].to(row[0].device, torch.float64) for each in row)
            difference = (a - m).abs()
            top, largest = _larger(top, a.abs()), _larger(largest, difference)
            total, numbers, tokens = total + float(difference.sum()), numbers + a.numel(), tokens + len(a)
            log_a, log_b, log_m = (each.log_softmax(-1) for each in (a, b, m))
            p = log_a.exp()
            kl += float((p * (log_a - log_m)).sum())
            effect += float((p * (log_a - log_b)).sum())
            whole, done = _centred(p, a - b), _centred(p, m - b)
            along, square = along + float((p * whole * done).sum()), square + float((p * whole * whole).sum())
    if not rows:
        raise ValueError("nothing to compare: no rows")
    kl, effect = max(kl / tokens, 0.0) if isfinite(kl) else kl, effect / tokens
    kept = along / square if effect > NOISE else 1.0
    same = sum(one == other for one, other in zip(*completions, strict=True))
    scale = top or 1.0
    return Measured(rows, tokens, largest / scale, total / numbers / scale, kl, effect, kept, same)


def verdict(measured: Measured, dtype: Dtype) -> str:
    """Empty when the merged model is proven to be the trained one; else what was found and what the limit is."""
    limits, found = LIMITS[dtype], measured
    aside = (1 - found.kept) ** 2 * found.effect
    if not all(isfinite(value) for value in (found.kl, found.effect, found.largest)):
        return "some logits are not finite"
    if found.lost > MOST_LOST:
        hint = "" if dtype == "fp32" else f", or the adapter is too weak for {dtype} and needs '--dtype fp32'"
        return (
            f"{found.lost:.0%} of the adapter's effect is lost (KL {found.kl:.1e} of {found.effect:.1e}), and at most "
            f"{MOST_LOST:.0%} may be: the merge is wrong{hint}"
        )
    if abs(1 - found.kept) > NEAR_ONE and aside > limits.aside:
        return (
            f"the merged model has {found.kept:.2f} times the adapter's effect, and between {1 - NEAR_ONE:.2f} and "
            f"{1 + NEAR_ONE:.2f} times is allowed: rounding to {dtype} does not explain it"
        )
    if found.lost > SMALL_SHARE and found.kl > limits.kl:
        return (
            f"KL of the adapter to the merged model is {found.kl:.1e}, and rounding to {dtype} explains {limits.kl:.0e}"
        )
    if found.largest > limits.largest:
        return (
            f"logits differ by up to {found.largest:.1e} of the largest, and {limits.largest:.0e} is allowed in {dtype}"
        )
    if dtype == "fp32" and found.same_greedy < found.rows:
        return f"{found.rows - found.same_greedy} of {found.rows} greedy completions differ, and none may in fp32"
    return ""


def advice(measured: Measured, dtype: Dtype) -> str:
    """An offer of fp32 where rounding to 16 bit takes much of the adapter's effect; else empty."""
    if dtype == "fp32" or measured.lost <= WORTH_FP32:
        return ""
    return f"{measured.lost:.0%} of the adapter's effect is lost to rounding in {dtype}; '--dtype fp32' keeps it"


def logits_of(model: "PreTrainedModel | PeftModel", rows: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """fp32 logits of each row of token ids, shape (tokens, vocabulary), in eval mode and without a cache.

    The model's mode is put back in the end.
    """
    was_training = model.training
    model.eval()
    try:
        for row in rows:
            with torch.inference_mode():
                found: Tensor = model(input_ids=torch.tensor([list(row)], device=model.device), use_cache=False).logits
            yield found[0, -len(row) :].float()  # those of virtual tokens come before
    finally:
        model.train(was_training)


def greedy(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch_size: int = 8,
) -> list[str]:
    """The greedy completion of each row of token ids; the model's mode is put back in the end."""
    was_training = model.training
    try:
        return generate(
            model,
            tokenizer,
            [list(row) for row in rows],
            stop_ids=stop_ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    finally:
        model.train(was_training)


def _centred(p: Tensor, x: Tensor) -> Tensor:
    return x - (p * x).sum(-1, keepdim=True)


def _larger(one: float, other: Tensor) -> float:
    """The larger one; NaN, which Python's max may lose, wins."""
    top = float(other.max())
    return top if top > one or top != top else one
