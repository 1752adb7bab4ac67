"""Completions that a program can read: one JSON object and nothing else."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ftune.evals.metrics.json_fields import read_json
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings


class JsonValid(RewardSource):
    """1 where the completion is a JSON object with the keys that are asked for, else 0."""

    type: Literal["json_valid"] = "json_valid"

    required: list[str] = Field(default_factory=list)
    """Keys that the object has to have."""

    fenced: bool = False
    """Also take an object in a code block (three backquotes), whatever stands around the block."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [float(self._is_valid(sample.completion)) for sample in samples]

        return score

    def _is_valid(self, completion: str) -> bool:
        try:
            value = read_json(completion, fenced=self.fenced)
        except ValueError:
            return False
        return isinstance(value, dict) and all(key in value for key in self.required)
