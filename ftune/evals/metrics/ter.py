"""TER, the translation edit rate (Snover et al., AMTA 2006), as sacrebleu computes it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ftune.evals.metrics.translation import Translation
from ftune.evals.scored import Kind

if TYPE_CHECKING:
    from ftune.evals.scored import Floats


class Ter(Translation):
    """Edits (words put in, taken out, replaced, and phrases moved) for 100 words of the reference; fewer is better.

    Edits and words are counted over all rows. An empty completion scores 100, and a long wrong one more than that.
    It is slow for long texts.
    """

    type: Literal["ter"] = "ter"

    case: bool = False
    """Whether capitals matter."""

    normalized: bool = False
    """Whether punctuation is cut off words first, as Tercom does."""

    punctuation: bool = True
    """Whether punctuation counts."""

    def kinds(self) -> Mapping[str, Kind]:
        """Points; fewer are better."""
        return {"ter": Kind("lower", "points")}

    def library(self) -> Any:
        """The metric as sacrebleu has it."""
        from sacrebleu.metrics.ter import TER

        return TER(case_sensitive=self.case, normalized=self.normalized, no_punct=not self.punctuation)

    def of_corpus(self, sums: "Floats") -> "Floats":
        """Counts are edits and words of the references. Without any word there, it is 100 for any edit, else 0."""
        import numpy as np

        edits, words = sums[..., 0], sums[..., 1]
        score: Floats = 100 * np.where(words > 0, edits / np.where(words > 0, words, 1), edits > 0)
        return score
