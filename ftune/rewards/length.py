"""How long a completion should be."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings


class Length(RewardSource):
    """1 for a length within a range, less outside, or a penalty for what lies outside."""

    type: Literal["length"] = "length"

    unit: Literal["tokens", "words", "characters"] = "tokens"
    """What is counted: the policy's tokens without the stop token, stretches between blanks, or characters."""

    min: Annotated[int, Field(ge=0)] = 0
    """The shortest length without loss."""

    max: Annotated[int, Field(ge=0)] | None = None
    """The longest length without loss; by default any."""

    fall_off: Annotated[int, Field(ge=1)] = 20
    """So many units outside the range, one point is lost; in between in proportion."""

    score: Literal["range", "penalty"] = "range"
    """`range`: 1 inside, falling to 0 outside; `penalty`: 0 inside, falling without end outside."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max is None and self.min == 0:
            raise ValueError("every length is within the range; give 'min' or 'max', or both")
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max: {self.max} is less than 'min' ({self.min})")
        return self

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [self._of(self._length(sample)) for sample in samples]

        return score

    def _length(self, sample: Sample) -> int:
        if self.unit == "words":
            return len(sample.completion.split())
        return len(sample.completion) if self.unit == "characters" else len(sample.token_ids) - sample.stopped

    def _of(self, length: int) -> float:
        over = length - self.max if self.max is not None else 0
        lost = max(self.min - length, over, 0) / self.fall_off
        return max(1.0 - lost, 0.0) if self.score == "range" else -lost
