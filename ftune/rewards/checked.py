"""What a reward may be, checked in one place: finite numbers, or None, one a sample."""

import math
from collections.abc import Sequence
from numbers import Real

from ftune.core.errors import RewardError
from ftune.rewards.base import Sample, Score


def checked(values: object, samples: Sequence[Sample]) -> list[Score]:
    """What a source returned for these samples, as plain numbers; scalars of numpy and torch are numbers too.

    Raises RewardError that says what came instead, and for which row.
    """
    if not isinstance(values, list | tuple):
        hint = "; end it with '.tolist()'" if hasattr(values, "tolist") else ""
        raise RewardError(f"returned {_described(values)} and no list with a number for each sample{hint}")
    if len(values) != len(samples):
        raise RewardError(
            f"{rows_of(samples)}: returned {len(values)} numbers for {len(samples)} samples; return one for each, None "
            "for those to leave out"
        )
    return [_score(value, sample) for value, sample in zip(values, samples, strict=True)]


def rows_of(samples: Sequence[Sample]) -> str:
    """The rows of some samples, for a message about all of them."""
    if not samples:
        return "no rows"
    return samples[0].origin if len(samples) == 1 else f"{samples[0].origin} to {samples[-1].origin}"


def _score(value: object, sample: Sample) -> Score:
    if value is None:
        return None
    if not isinstance(value, Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # of a torch tensor without dimensions, or numpy's bool
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(
            f"{sample.origin}: returned {_described(value)}; a reward is a finite number, or None to leave the sample "
            "out"
        )
    return number


def _described(value: object) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 60 else f'{shown[:57]}...'} ({type(value).__name__})"
