"""Task arithmetic (arXiv:2212.04089): what models learnt is added to, or taken from, their base."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class TaskArithmetic(Combination):
    """W = W_0 + scale * sum_i w_i (W_i - W_0); a negative w_i makes the model forget source i (arXiv:2212.04089)."""

    type: Literal["task_arithmetic"] = "task_arithmetic"
    """Task vectors added to the base, or taken from it."""

    scale: float = 1.0
    """Factor of the whole sum, the paper's lambda, which it chooses by held-out rows."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The scaled sum."""
        from ftune.merge.engines.combined import weighted_sum

        return weighted_sum(updates, [self.scale * weight for weight in weights])
