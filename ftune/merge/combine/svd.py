"""The weighted sum of the updates, cut down to a low rank."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.merge.combine.base import Combination

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Svd(Combination):
    """The nearest matrix of a rank: D = U_r S_r V_r^T, where U S V^T = sum_i w_i D_i (Eckart and Young, 1936).

    No matrix of rank r is nearer to the sum, in the spectral and the Frobenius norm. Biases and norms, which are no
    matrices, keep the whole sum.
    """

    type: Literal["svd"] = "svd"
    """The weighted sum, truncated to a rank."""

    rank: Annotated[int, Field(ge=1)]
    """Rank of the combined update of each matrix."""

    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """The best approximation of sum_i w_i D_i of rank `rank`."""
        from ftune.merge.engines.combined import weighted_sum
        from ftune.merge.engines.truncate import truncated

        return truncated(weighted_sum(updates, weights), self.rank)
