"""chrF (Popovic, WMT 2015) and chrF++ (WMT 2017), as sacrebleu computes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ftune.evals.metrics.translation import Translation
from ftune.evals.scored import Kind

if TYPE_CHECKING:
    from ftune.evals.scored import Floats

_BETA = 2
"""Recall counts so many times as much as precision."""


class Chrf(Translation):
    """F of n-grams of 1 to 6 characters, counted over all rows; 0 to 100. It suits any language.

    An empty completion scores 0.
    """

    type: Literal["chrf"] = "chrf"

    word_order: Annotated[int, Field(ge=0, le=4)] = 0
    """Longest n-grams of words that count too; 2 is chrF++."""

    lowercase: bool = False
    """Whether capitals do not matter."""

    def kinds(self) -> Mapping[str, Kind]:
        """Points."""
        return {"chrf": Kind(scale="points")}

    def library(self) -> Any:
        """The metric as sacrebleu has it."""
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(word_order=self.word_order, lowercase=self.lowercase, beta=_BETA)

    def of_corpus(self, sums: "Floats") -> "Floats":
        """F of the means of precision and recall over the orders that there are n-grams of.

        Counts are, for each order: n-grams found, wanted and right.
        """
        import numpy as np

        found, wanted, right = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
        there = (found > 0) & (wanted > 0)
        orders = np.maximum(there.sum(-1), 1)
        precision = np.where(there, right / np.maximum(found, 1), 0).sum(-1) / orders
        recall = np.where(there, right / np.maximum(wanted, 1), 0).sum(-1) / orders
        weighted = _BETA**2 * precision + recall
        score: Floats = 100 * (1 + _BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)
        return score
