"""TIES (arXiv:2306.01708): trim the updates, elect a sign for each value, average those that agree."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Ties(Combination):
    """D = scale * sum_{i in A} w_i T_i / sum_{i in A} |w_i| in each place (algorithm 1 of arXiv:2306.01708).

    T_i is D_i with all but the largest `density` of its values, by magnitude, at zero. A are the sources where w_i T_i
    has the elected sign, sgn(sum_i w_i T_i). Equal weights are the paper's plain mean, whatever they add up to.

    Merging reads one tensor at a time, so each is trimmed by itself, where the paper ranks all values of a model.
    """

    type: Literal["ties"] = "ties"
    """Trimmed updates, averaged where their signs agree."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the values of each tensor that is kept, those of largest magnitude."""

    scale: float = 1.0
    """Factor of the merged update, the paper's lambda."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The disjoint mean of the trimmed updates."""
        from ftune.merge.engines.ties import ties

        return ties(updates, weights, self.density, self.scale)
