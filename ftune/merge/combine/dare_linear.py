"""DARE (arXiv:2311.03099): most values of an update are dropped at random, the rest grow to make up for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class DareLinear(Combination):
    """D = sum_i w_i M_i * D_i / density, with each value of the mask M_i 1 with probability `density`, else 0.

    The expected value is the weighted sum (arXiv:2311.03099, whose drop rate p is 1 - density).
    """

    type: Literal["dare_linear"] = "dare_linear"
    """The weighted sum of updates thinned out at random."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability with which a value is kept; kept values are divided by it."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The weighted sum of the thinned updates."""
        from ftune.merge.engines.dare import dare_linear

        return dare_linear(updates, weights, self.density, generator)
