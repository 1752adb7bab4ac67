"""Means and variances over real tokens of all ranks, and over everything seen so far."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks: every rank calls it equally often, and gets the same."""

LEAST_VARIANCE = 1e-8
"""Below it a quantity counts as constant."""


def identity(tensor: Tensor) -> Tensor:
    """The `Reduce` of a single process."""
    return tensor


def masked_moments(x: Tensor, mask: Tensor, reduce: Reduce = identity) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, population variance and number of the elements where `mask` is not 0, over all ranks.

    In float64 and in two passes (the mean first), since E[x^2] - E[x]^2 cancels where the mean is large. All three are
    0 where nothing is real. `x` and `mask` have one shape, of any rank.
    """
    real = mask.bool()
    values = x.detach().double().masked_fill(~real, 0.0)
    total, count = reduce(torch.stack((values.sum(), real.sum().double())))
    mean = total / count.clamp(min=1)
    squares = (values - mean).square().masked_fill(~real, 0.0).sum()
    return mean, reduce(squares) / count.clamp(min=1), count


def whiten(x: Tensor, mask: Tensor, reduce: Reduce = identity, *, shift_mean: bool = True) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) with the moments of real elements over all ranks; zero where `mask` is 0.

    Without `shift_mean` only the spread becomes 1 and the mean stays as it was.
    """
    mean, variance, _ = masked_moments(x, mask, reduce)
    whitened = (x.double() - mean) * (variance + LEAST_VARIANCE).rsqrt()
    if not shift_mean:
        whitened = whitened + mean
    return whitened.to(x.dtype).masked_fill(~mask.bool(), 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce = identity) -> float | None:
    """1 - Var(returns - values) / Var(returns) over real tokens of all ranks: 1 is a perfect value function.

    None where the returns are constant (variance below 1e-8): there is nothing to explain.
    """
    _, spread, _ = masked_moments(returns, mask, reduce)
    _, unexplained, _ = masked_moments(returns - values, mask, reduce)
    if spread < LEAST_VARIANCE:
        return None
    return float(1 - unexplained / spread)


class RunningMoments:
    """Mean and standard deviation of all values seen so far, on all ranks.

    Batches are merged by their count, mean and sum of squared deviations (Chan, Golub and LeVeque 1979, "Updating
    formulae and a pairwise algorithm for computing sample variances").
    """

    def __init__(self) -> None:
        self.count = 0.0
        self.mean = 0.0
        self._deviations = 0.0  # sum of squared distances to the mean

    def update(self, values: Tensor, reduce: Reduce = identity) -> None:
        """Take in a batch of any shape; NaN marks what is missing. Ranks without values call it as well."""
        moments = masked_moments(values, ~values.isnan(), reduce)
        mean, variance, count = (float(moment) for moment in moments)
        together = self.count + count
        if together == 0:
            return
        distance = mean - self.mean
        self._deviations += variance * count + distance**2 * self.count * count / together
        self.mean += distance * count / together
        self.count = together

    @property
    def std(self) -> float:
        """Population standard deviation; 0 before the first value."""
        return math.sqrt(self._deviations / self.count) if self.count else 0.0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; JSON keeps it exactly."""
        return {"count": self.count, "mean": self.mean, "deviations": self._deviations}

    @classmethod
    def from_state(cls, state: dict[str, float]) -> Self:
        """The moments that `state` described."""
        moments = cls()
        moments.count, moments.mean, moments._deviations = state["count"], state["mean"], state["deviations"]
        return moments
