"""The exact sum of adapters, as one adapter of all their ranks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Cat(Combination):
    """D = sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...], where s_i is LoRA's alpha / rank.

    As an adapter, the sum is exact and its rank is the sum of the ranks. In a whole model it is what `linear` gives.
    """

    type: Literal["cat"] = "cat"
    """The exact sum of LoRA adapters, their ranks side by side."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The weighted sum."""
        from ftune.merge.engines.combined import weighted_sum

        return weighted_sum(updates, weights)
