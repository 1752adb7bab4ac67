"""What every text metric provides: values of each row, and how they are read."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar, TypeAlias

from pydantic import StringConstraints

from ftune.core.section import Location, Section
from ftune.evals.scored import Kind, Scored


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote for one row, and what was wanted."""

    completion: str
    """The text without the stop token."""
    references: tuple[str, ...] = ()
    """Right answers, each as good as the others; none where the row has none."""
    prompt: str = ""
    token_ids: Sequence[int] | None = None
    """The completion as the model wrote it, without the stop token; None where only the text is known."""


References: TypeAlias = Sequence[Sequence[str]]
"""The right answers of each row."""

Row: TypeAlias = Sequence[float | None]
"""The values of one row, in the order of the metric's kinds; None where the row has no such value."""


class Metric(Section):
    """A family of values: its fields are its recipe keys, `score` measures.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    needs_references: ClassVar[bool] = True
    """Whether a row without a reference cannot be scored."""

    package: ClassVar[tuple[str, str] | None] = None
    """What it computes with, where the core of ftune does not have that: name to import, name to install."""

    name: Annotated[str, StringConstraints(pattern=r"^[\w-]+$")] | None = None
    """A name of its own for its values, where a metric is there twice."""

    @abstractmethod
    def kinds(self) -> Mapping[str, Kind]:
        """The names of its values and how each is read."""

    @abstractmethod
    def open(self) -> Callable[[Answer], Row]:
        """What scores one row; it sees no rows without references where it needs these."""

    def score(self, answers: Sequence[Answer]) -> dict[str, Scored]:
        """Every value on these rows. A row's own values depend on no other row."""
        columns = self.columns(answers)
        return {name: Scored(column, kind) for (name, kind), column in zip(self.kinds().items(), columns, strict=True)}

    def columns(self, answers: Sequence[Answer]) -> list[list[float | None]]:
        """The rows' own values: a list for each kind."""
        of_row = self.open() if answers else None
        unscored: Row = [None] * len(self.kinds())
        rows = [of_row(each) if of_row and self.can_score(each) else unscored for each in answers]
        return [[row[place] for row in rows] for place in range(len(unscored))]

    def can_score(self, answer: Answer) -> bool:
        """Whether the row has what the metric needs."""
        return bool(answer.references) or not self.needs_references

    def unfit(self, references: References) -> str:
        """Why it can score no row with these references; empty where it can score some."""
        if self.needs_references and not any(references):
            return "the rows have no answers to compare with"
        return ""

    def absent(self) -> str:
        """What has to be installed for it first; empty where nothing has to."""
        if self.package is None or find_spec(self.package[0]) is not None:
            return ""
        kind = type(self).model_fields["type"].default
        return f"'{kind}' needs the package '{self.package[1]}': pip install 'ftune[eval]'"

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A package that is not installed."""
        if message := self.absent():
            yield ("type",), message

    def title(self) -> str:
        """What tells it from other metrics."""
        return self.name or str(type(self).model_fields["type"].default)

    def labels(self) -> dict[str, str]:
        """The names of its values in tables and files, by its own names: with its `name`, where it has one."""
        own = list(self.kinds())
        if self.name is None:
            return {key: key for key in own}
        return {key: self.name if len(own) == 1 else f"{self.name}.{key}" for key in own}


def score_all(metrics: Sequence[Metric], answers: Sequence[Answer]) -> dict[str, Scored]:
    """The values of all metrics on the same rows, by their labels. `clash` says beforehand whether these differ."""
    return {metric.labels()[key]: scored for metric in metrics for key, scored in metric.score(answers).items()}


def clash(metrics: Sequence[Metric]) -> str:
    """What is wrong with a list of metrics: two that give a value of one name; empty where all differ."""
    owners: dict[str, Metric] = {}
    for metric in metrics:
        for label in metric.labels().values():
            if label in owners:
                return (
                    f"'{owners[label].title()}' and '{metric.title()}' both give '{label}'; give one of them a 'name'"
                )
            owners[label] = metric
    return ""
