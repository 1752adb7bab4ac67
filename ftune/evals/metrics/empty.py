"""Completions with nothing in them."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from ftune.evals.metrics.base import Answer, Metric, Row
from ftune.evals.scored import Kind


class Empty(Metric):
    """1 where the completion is empty or blank, else 0."""

    needs_references: ClassVar[bool] = False

    type: Literal["empty"] = "empty"

    def kinds(self) -> Mapping[str, Kind]:
        """One share; fewer is better."""
        return {"empty": Kind("lower")}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return lambda answer: [float(not answer.completion.strip())]
