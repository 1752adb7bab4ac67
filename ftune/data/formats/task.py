"""Rows of a task, asked in many ways by templates (FLAN, arXiv:2109.01652)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, ValidationInfo, model_validator

from ftune.core.errors import DataError
from ftune.core.paths import find_file
from ftune.data.example import Example
from ftune.data.formats.base import RowFormat, Values, quoted_keys
from ftune.data.tasks.labels import LabelNames, list_or
from ftune.data.tasks.task import Task
from ftune.data.tasks.task_set import LABEL, TaskSet, Templates, named_task_set, read_task_set, shipped


def _read(value: object, info: ValidationInfo) -> object:
    """A file of templates as what it holds, so that the recipe that is kept with a run has it too."""
    if not isinstance(value, str):
        return value
    found = find_file(value, (info.context or {}).get("folders", [Path()]))
    try:
        if value not in shipped() and found is not None and found.is_file():
            return read_task_set(found)
        named_task_set(value)
    except DataError as error:
        raise ValueError(str(error)) from None
    return value


def _written_as(value: object) -> str:
    return "name" if isinstance(value, str) else "list" if isinstance(value, list) else "set"


Given = Annotated[
    Annotated[str, Tag("name")] | Annotated[Templates, Tag("list")] | Annotated[TaskSet, Tag("set")],
    Discriminator(_written_as),
]
Shots = Annotated[int, Field(ge=0)]


class TaskFormat(RowFormat):
    """Columns that templates turn into a question and its answer.

    Which template a row gets is drawn from the seed and the row itself. Rows without an answer's column become prompts.

    {"document": "Ann: Lunch at one? Bob: Make it two.", "summary": "Ann and Bob have lunch at two."}
    """

    type: Literal["task"] = "task"
    keys: ClassVar[tuple[str, ...]] = ("document", "summary")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "document": ("document", "dialogue", "article", "text"),
        "summary": ("summary", "highlights"),
    }
    rank: ClassVar[int] = 31
    seeded: ClassVar[bool] = True

    templates: Annotated[Given | None, BeforeValidator(_read)] = None
    """A set that comes with ftune (classification, nli, question_answering, summarisation, word_sense, yes_no), a YAML
    file with templates, or a list of them; by default the first template of the set that the columns tell."""

    labels: LabelNames | None = None
    """The word of each label, as in `{0: no, 1: yes}` or `[no, yes]`; by default the set's or the labels themselves."""

    shots: Annotated[
        Annotated[Shots, Tag("number")] | Annotated[list[Shots], Field(min_length=1), Tag("list")], list_or("number")
    ] = 0
    """Exemplars before each row, taken from the first rows of the data; of a list, one number is drawn for each row."""

    turned_around: bool = True
    """Whether templates that ask for the input, given the answer, take part."""

    _task: Task | None = PrivateAttr(None)

    @property
    def takes_examples(self) -> bool:
        """Exemplars come from the first rows."""
        return self.shots != 0

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """The columns that tell a shipped set, and what else could be had of it."""
        if (name := _recognised(row)) is None:
            return None
        known = shipped()[name]
        columns = tuple(column for key in known.recognised_by if (column := known.column(key, row)))
        return (
            f"{quoted_keys(columns)} of the task '{name}' (asked in one way; "
            f"'format: {{type: task, templates: {name}}}' asks in {len(known.templates)})"
        )

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """The columns of the shipped set that a row tells."""
        known = shipped().get(_recognised(row) or "")
        return {column for key in known.names if (column := known.column(key, row))} if known else super().used(row)

    def bound(self, first: Sequence[Values], seed: int) -> Self:
        """With the labels and the exemplars of the first rows. DataError where columns or exemplars are missing."""
        bound = self.model_copy()
        bound._task = self._made(first, seed)
        return bound

    def to_example(self, row: Values) -> Example:
        """A question with its exemplars, and its answer where the row has one."""
        return (self._task or self._made([row], seed=0)).example(row)

    def choices(self, row: Values) -> tuple[str, ...]:
        """The label words, where the row's template asks for one of them."""
        return (self._task or self._made([row], seed=0)).choices(row)

    def _made(self, first: Sequence[Values], seed: int) -> Task:
        if (task_set := self._named()) is None:
            known = shipped()[_recognised_in(first)]
            task_set = known.but(templates=known.templates[:1])
        if not self.turned_around:
            task_set = task_set.but(templates=[each for each in task_set.templates if not each.turned_around])
        if self.labels is not None:
            task_set = task_set.but(labels=[self.labels])
        shots = [self.shots] if isinstance(self.shots, int) else self.shots
        return Task.of(task_set, first, shots=shots, seed=seed)

    def _named(self) -> TaskSet | None:
        match self.templates:
            case str() as name:
                return named_task_set(name)
            case list() as templates:
                return TaskSet(templates=templates)
            case _:
                return self.templates

    @model_validator(mode="after")
    def _labels_have_a_place(self) -> Self:
        task_set = self._named()
        if self.labels is not None and task_set is not None and LABEL not in task_set.names:
            raise ValueError(f"'labels' does nothing here: no template holds '{{{LABEL}}}'; remove it")
        return self


def _recognised(row: Values) -> str | None:
    """The name of the shipped set that a row's columns tell."""
    return next((name for name, known in shipped().items() if known.recognises(row)), None)


def _recognised_in(first: Sequence[Values]) -> str:
    for row in first:
        if name := _recognised(row):
            return name
    found = quoted_keys(tuple(first[0])) if first and first[0] else "no columns"
    known = "; ".join(f"{name} reads {quoted_keys(tuple(known.columns))}" for name, known in shipped().items())
    raise DataError(f"these rows with {found} are of no task that is known; name one with 'format.templates': {known}")
