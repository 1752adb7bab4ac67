"""Words and phrases that a completion should, or with a negative weight should not, contain."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.words import WordFinder

Word = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Contains(RewardSource):
    """How many different words or phrases of a list occur in the completion."""

    type: Literal["contains"] = "contains"

    words: Annotated[list[Word], Field(min_length=1)]
    """The words and phrases, found as wholes."""

    per_hit: bool = True
    """One point for each different one that occurs; else one point if any does."""

    case: bool = False
    """Whether capitals matter."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""
        find = WordFinder(self.words, case=self.case)

        def score(samples: Sequence[Sample]) -> list[Score]:
            hits = [len(find(sample.completion)) for sample in samples]
            return [float(number if self.per_hit else number > 0) for number in hits]

        return score
