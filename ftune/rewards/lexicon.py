"""Two lists of words: the more different words of the one and the fewer of the other, the better."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ftune.core.errors import RewardError
from ftune.core.section import Location
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.contains import Word
from ftune.rewards.paths import looked_up
from ftune.rewards.words import WordFinder

Words = list[Word] | str


class Lexicon(RewardSource):
    """Different positive words minus different negative words in the completion."""

    type: Literal["lexicon"] = "lexicon"

    positive: Words = Field(default_factory=list)
    """Words and phrases that count one each, or a text file with one a line."""

    negative: Words = Field(default_factory=list)
    """Words and phrases that count minus one each, or a text file with one a line."""

    squash: Annotated[float, Field(gt=0)] | None = None
    """Divide by this and take the hyperbolic tangent, so that rewards stay between -1 and 1; by default the plain
    difference."""

    @field_validator("positive", "negative", mode="before")
    @classmethod
    def _find(cls, value: Any, info: ValidationInfo) -> Any:
        return looked_up(value, info) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.positive and not self.negative:
            raise ValueError("give 'positive' or 'negative' words, or both")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A file that is not there or holds no words."""
        for key, words in (("positive", self.positive), ("negative", self.negative)):
            if isinstance(words, str):
                try:
                    _words(words)
                except RewardError as error:
                    yield (key,), str(error)

    def open(self, around: Surroundings) -> Scorer:
        """Ready when its files are read. Raises RewardError for a file without words."""
        positive, negative = WordFinder(_words(self.positive)), WordFinder(_words(self.negative))

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [
                self._squashed(len(positive(sample.completion)) - len(negative(sample.completion)))
                for sample in samples
            ]

        return score

    def _squashed(self, difference: int) -> float:
        return float(difference) if self.squash is None else math.tanh(difference / self.squash)


def _words(words: Words) -> list[str]:
    """The words themselves; of a file, its lines without the empty ones and those that begin with `#`."""
    if not isinstance(words, str):
        return words
    try:
        lines = [line.strip() for line in Path(words).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise RewardError(f"'{words}' cannot be read: {error.strerror}; give a list, or a file of words") from None
    except UnicodeDecodeError as error:
        raise RewardError(f"'{words}' is not UTF-8 text (byte {error.start})") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise RewardError(f"'{words}' holds no words; put one a line")
    return found
