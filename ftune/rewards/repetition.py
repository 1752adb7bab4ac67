"""A penalty for saying the same again."""

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from ftune.evals.metrics.repetition import ngrams_of
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings


class Repetition(RewardSource):
    """Minus the share of n-grams that have occurred before: 0 without any repetition, towards -1 for a loop."""

    type: Literal["repetition"] = "repetition"

    ngram: Annotated[int, Field(ge=1)] = 3
    """How many words or tokens in a row are compared."""

    unit: Literal["words", "tokens"] = "words"
    """`words` are compared without regard to capitals; `tokens` suit languages without blanks between words."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [-self._repeated(self._units(sample)) for sample in samples]

        return score

    def _units(self, sample: Sample) -> Sequence[Hashable]:
        if self.unit == "words":
            return sample.completion.casefold().split()
        return sample.token_ids[: len(sample.token_ids) - sample.stopped]

    def _repeated(self, units: Sequence[Hashable]) -> float:
        """1 - distinct / all n-grams, as in distinct-n (arXiv:1510.03055); 0 for a text shorter than one."""
        ngrams = ngrams_of(units, self.ngram)
        return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
