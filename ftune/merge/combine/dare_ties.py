"""DARE before TIES (arXiv:2311.03099, arXiv:2306.01708): dropping at random takes the place of trimming."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class DareTies(Combination):
    """D = scale * sum_{i in A} w_i T_i / sum_{i in A} |w_i|, as in `ties`, of the T_i = M_i * D_i / density of DARE.

    Dropped values have a part neither in the election of signs nor in the mean.
    """

    type: Literal["dare_ties"] = "dare_ties"
    """Updates thinned out at random, averaged where their signs agree."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability with which a value is kept; kept values are divided by it."""

    scale: float = 1.0
    """Factor of the merged update, the lambda of TIES."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The disjoint mean of the thinned updates."""
        from ftune.merge.engines.dare import dare_ties

        return dare_ties(updates, weights, self.density, self.scale, generator)
