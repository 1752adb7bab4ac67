"""Spherical interpolation between two sources (Shoemake, SIGGRAPH 1985)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Slerp(Combination):
    """D = (sin((1 - t) O) D_1 + sin(t O) D_2) / sin O with t = w_2 / (w_1 + w_2) and O the angle from D_1 to D_2.

    The interpolation follows the arc between the two tensors, each taken as one long vector, where the straight line
    would shorten the result. Nearly parallel tensors, and tensors of zeros, have no arc: there it is the straight line,
    (1 - t) D_1 + t D_2.
    """

    sources: ClassVar[tuple[int, int | None]] = (2, 2)
    needs_base: ClassVar[bool] = False

    type: Literal["slerp"] = "slerp"
    """Interpolation between two sources along the arc."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The point of the arc at t."""
        from ftune.merge.engines.slerp import slerp

        return slerp(updates[0], updates[1], weights[1] / sum(weights))

    def unfit(self, weights: Sequence[float], *, common_base: bool) -> str | None:
        """The share of each source must lie between 0 and 1."""
        if min(weights, default=0) < 0 or not sum(weights) > 0:
            return "'slerp' goes from one source to the other; choose weights of 0 or more that are not all 0"
        return super().unfit(weights, common_base=common_base)
