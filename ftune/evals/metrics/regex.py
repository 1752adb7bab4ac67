"""A regular expression: found in the completion, or what it takes out of it compared with the reference."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, model_validator

from ftune.evals.metrics.base import Answer, Metric, References, Row
from ftune.evals.scored import Better, Kind


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


Pattern: TypeAlias = Annotated[str, AfterValidator(_compiles)]
"""A regular expression, which a recipe is refused without."""


class Regex(Metric):
    """Whether, or how often, an expression is found in the completion, or whether its group is the right one."""

    type: Literal["regex"] = "regex"

    pattern: Pattern
    """Python's syntax, searched anywhere: `(?i)` ignores case, `(?s)` lets a dot match line ends, `^` and `$` are
    the ends of the completion."""

    compare: Literal["match", "count", "group"] = "match"
    """`match`: 1 where it is found and 0 where not; `count`: how often it is found; `group`: 1 where its group (of
    several, the first that has text) is that of a reference, or the whole reference where it is not found there."""

    better: Better = "higher"
    """Which way is good: `higher`, `lower` for what should not be found, or `neither`."""

    @model_validator(mode="after")
    def _has_a_group(self) -> Self:
        if self.compare == "group" and not re.compile(self.pattern).groups:
            raise ValueError("the pattern has no group to compare; put the part that matters in parentheses")
        return self

    def kinds(self) -> Mapping[str, Kind]:
        """A share, or a number."""
        return {"regex": Kind(self.better, "number" if self.compare == "count" else "share")}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        pattern = re.compile(self.pattern)
        return lambda answer: [self._of(answer, pattern)]

    def can_score(self, answer: Answer) -> bool:
        """References are needed for groups only."""
        return self.compare != "group" or super().can_score(answer)

    def unfit(self, references: References) -> str:
        """References are needed for groups only."""
        return super().unfit(references) if self.compare == "group" else ""

    def _of(self, answer: Answer, pattern: re.Pattern[str]) -> float:
        if self.compare == "count":
            return float(sum(1 for _ in pattern.finditer(answer.completion)))
        if self.compare == "match":
            return float(pattern.search(answer.completion) is not None)
        found = _group(pattern, answer.completion)
        return float(
            found is not None and found in (_group(pattern, each) or each.strip() for each in answer.references)
        )


def _group(pattern: re.Pattern[str], text: str) -> str | None:
    """The first group of the first match that has text, without blanks around it."""
    match = pattern.search(text)
    return next((group.strip() for group in match.groups() if group and group.strip()), None) if match else None
