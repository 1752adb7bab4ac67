"""The weighted sum of the sources."""

from collections.abc import Sequence
from math import isclose
from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Linear(Combination):
    """The weighted sum: D = sum_i w_i D_i, of updates or of whole weights (model soups, arXiv:2203.05482)."""

    needs_base: ClassVar[bool] = False

    type: Literal["linear"] = "linear"
    """The weighted sum of updates or whole models."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The weighted sum."""
        from ftune.merge.engines.combined import weighted_sum

        return weighted_sum(updates, weights)

    def unfit(self, weights: Sequence[float], *, common_base: bool) -> str | None:
        """Whole models must be averaged: another sum of the weights would scale every weight of the model."""
        if not common_base and not isclose(sum(weights), 1, abs_tol=0.01):
            found = f"the weights of whole models without a base add up to {sum(weights):g}, which scales the model"
            return f"{found}; choose weights that add up to 1, or name the models' 'base'"
        return super().unfit(weights, common_base=common_base)
