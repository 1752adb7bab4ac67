"""How well scores tell the better of two answers: accuracy, calibration, and what length alone would have told."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 10
Z = 1.959964
"""Two-sided 95 % of the normal distribution."""

LONGER = 1.2
"""An answer is longer than another one from so many times its tokens on."""


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """P pairs with their scores; each array has shape (P,)."""

    better: Floats
    """Score of the chosen answer."""
    worse: Floats
    """Score of the rejected one."""
    better_tokens: NDArray[np.int64]
    """Tokens of the chosen answer, without the prompt."""
    worse_tokens: NDArray[np.int64]
    prompts: NDArray[np.int64]
    """Which prompt a pair belongs to, from 0 on."""


def pair_report(pairs: ScoredPairs) -> dict[str, Any]:
    """Accuracy with its 95 % interval, mean margin, expected calibration error with bins, accuracy by length.

    A tie counts as half right, here and for the baseline. That looks at length alone: it takes the longer answer for
    the better one, or the shorter one where this is right more often (answers that refuse are short).
    """
    margins = pairs.better - pairs.worse
    right = _right(margins)
    longer = _right((pairs.better_tokens - pairs.worse_tokens).astype(np.float64))
    rule, by_length = ("longer", longer) if longer.mean() >= 0.5 else ("shorter", 1 - longer)
    low, high = interval(right, pairs.prompts)
    length_low, length_high = interval(by_length, pairs.prompts)
    error, bins = calibration(margins)
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": float(margins.mean()),
        "calibration_error": error,
        "length_rule": rule,
        "length_accuracy": float(by_length.mean()),
        "length_accuracy_low": length_low,
        "length_accuracy_high": length_high,
        "pairs": len(margins),
        "prompts": len(np.unique(pairs.prompts)),
        "bins": bins,
        "by_length": _by_length(right, pairs),
    }


def interval(right: Floats, prompts: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the mean of `right`, shape (P,), each 0, 0.5 or 1.

    Wilson's score interval (1927), for as many pairs as they are worth: pairs of one prompt depend on each other, and
    how much the prompts' own shares differ tells by how much (design effect of a cluster sample; Kish, 1965). Where
    that cannot be told, as when all are right, a prompt is worth one pair.
    """
    numbers = np.unique(prompts, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, right), np.bincount(numbers)
    share = float(right.mean())
    if share in (0.0, 1.0) or len(sums) == 1:
        return wilson(share, len(sums))
    variance = float(np.square(sums - share * counts).sum()) / len(right) ** 2
    return wilson(share, min(share * (1 - share) / max(variance, 1e-12), len(right)))


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share among `count`, which need not be whole."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * float(np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def calibration(margins: Floats) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error of sigmoid(|margin|) as the probability to be right, and its bins.

    The mean over bins of equal width from 0.5 to 1 of |share right - mean probability|, weighted by their pairs (Guo et
    al., arXiv:1706.04599, equation 3).
    """
    probability = 1 / (1 + np.exp(-np.abs(np.clip(margins, -50, 50))))
    right = _right(margins)
    place = np.minimum(((probability - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    bins = [
        {
            "probability": float(probability[here].mean()),
            "accuracy": float(right[here].mean()),
            "pairs": int(here.sum()),
        }
        for here in (place == number for number in range(BINS))
        if here.any()
    ]
    error = sum(one["pairs"] * abs(one["accuracy"] - one["probability"]) for one in bins) / len(margins)
    return float(error), bins


def _by_length(right: Floats, pairs: ScoredPairs) -> list[dict[str, Any]]:
    """Accuracy where the chosen answer is the longer one, the shorter one, or about as long."""
    ratio = pairs.better_tokens / np.maximum(pairs.worse_tokens, 1)
    places = {
        "the better answer is longer": ratio >= LONGER,
        "about as long": (ratio < LONGER) & (ratio > 1 / LONGER),
        "the better answer is shorter": ratio <= 1 / LONGER,
    }
    return [
        {"where": where, "pairs": int(here.sum()), "accuracy": float(right[here].mean())}
        for where, here in places.items()
        if here.any()
    ]


def _right(lead: Floats) -> Floats:
    """1 where the better one leads, 0.5 for a tie, 0 else."""
    return (np.sign(lead) + 1) / 2
