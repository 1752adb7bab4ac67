"""Completions that a program can read: one JSON object and nothing else."""

import json
import re
from collections.abc import Sequence
from typing import Literal, NoReturn

from pydantic import Field

from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)


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
        block = _FENCED.search(completion) if self.fenced else None
        try:
            value = json.loads(block[1] if block else completion, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and all(key in value for key in self.required)


def _refuse(constant: str) -> NoReturn:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(constant)
