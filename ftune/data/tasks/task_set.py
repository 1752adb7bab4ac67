"""Sets of task templates: those that come with ftune, a YAML file of the user's, or a list in the recipe."""

from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from ftune.core.errors import DataError
from ftune.core.section import Location, Section
from ftune.core.suggest import did_you_mean
from ftune.core.yaml import Mark, dotted, parse_yaml
from ftune.data.formats.base import Values
from ftune.data.tasks.labels import LabelNames, by_label, label_key, label_of
from ftune.data.tasks.template import TaskTemplate, placeholders

SHIPPED = Path(__file__).parent
LABEL = "label"
"""The placeholder whose value is a label: the row's is replaced by its word."""


def _several(value: object) -> object:
    """One mapping, or one list of names, as a list of one."""
    single = isinstance(value, dict) or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    return [value] if single and value else value


def _plain_first(templates: list[TaskTemplate]) -> list[TaskTemplate]:
    if templates[0].turned_around:
        raise ValueError("the first template is turned around; begin with one that asks for the answer")
    return templates


Templates = Annotated[list[TaskTemplate], Field(min_length=1), AfterValidator(_plain_first)]


class TaskSet(Section):
    """Many ways to ask one task, and the columns that they need."""

    columns: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """The names that each placeholder's column may have, best first; without it, placeholders are column names."""

    recognised_by: list[str] = Field(default_factory=list)
    """The placeholders whose columns tell this task from others; without any it must be named."""

    labels: Annotated[list[LabelNames], BeforeValidator(_several)] = Field(default_factory=list)
    """Words of the labels; of several such mappings, the first that has the labels of the first rows."""

    templates: Templates
    """The templates. The first is the plainest."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The placeholders of all templates, without `options`."""
        return tuple(dict.fromkeys(name for template in self.templates for name in template.names))

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The placeholders of what is given to the model, the templates that are turned around left out."""
        return tuple(name for name in self.names if name not in self.answered)

    @cached_property
    def answered(self) -> tuple[str, ...]:
        """The placeholders of what the model should say, the templates that are turned around left out."""
        answers = [placeholders(template.answer) for template in self.templates if not template.turned_around]
        return tuple(dict.fromkeys(name for names in answers for name in names))

    @property
    def verbalizers(self) -> list[dict[str, str]]:
        """`labels`, each as words by label."""
        return [by_label(names) for names in self.labels]

    def column(self, name: str, row: Values) -> str | None:
        """The column of this row that a placeholder stands for."""
        return next((column for column in self.columns.get(name, [name]) if column in row), None)

    def recognises(self, row: Values) -> bool:
        """Whether a row has the columns that tell this task, and a label that it knows where that is one of them."""
        columns = [self.column(name, row) for name in self.recognised_by]
        if not columns or None in columns:
            return False
        if LABEL not in self.recognised_by:
            return True
        column = self.column(LABEL, row) or LABEL
        try:
            label = label_key(label_of(row, column))
        except DataError:
            return False
        if label.isdigit() and column != LABEL:
            return False  # an answer of 1 may be an amount
        return any(label in words for words in self.verbalizers)

    def but(self, **fields: object) -> Self:
        """The same set with other `templates` or `labels`."""
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | fields)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in [*self.names, *self.recognised_by] if self.columns else []:
            if name not in self.columns:
                raise ValueError(f"placeholder '{name}' is not under 'columns'{did_you_mean(name, self.columns)}")
        return self


@cache
def shipped() -> dict[str, TaskSet]:
    """The sets that come with ftune, by name."""
    return {path.stem: read_task_set(path) for path in sorted(SHIPPED.glob("*.yaml"))}


def named_task_set(name: str) -> TaskSet:
    """A shipped set by its name. Raises DataError."""
    if name in shipped():
        return shipped()[name]
    raise DataError(f"'{name}' is neither a file nor one of the task sets of ftune{did_you_mean(name, shipped())}")


def read_task_set(path: Path) -> TaskSet:
    """The set in a YAML file: a mapping, or only a list of templates. Raises DataError, one line a fault."""
    try:
        document = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if document.faults:
        raise DataError("\n".join(map(str, document.faults)))
    bare = isinstance(document.value, list)
    try:
        return TaskSet.model_validate({"templates": document.value} if bare else document.value)
    except ValidationError as error:
        raise DataError("\n".join(_told(error, document.marks, path, bare=bare))) from None


def _told(error: ValidationError, marks: dict[Location, Mark], path: Path, *, bare: bool) -> list[str]:
    """One line a fault, with its place in the file; places begin behind `templates` where the file is a bare list."""
    lines = []
    for fault in error.errors(include_url=False):
        place = fault["loc"][1:] if bare else fault["loc"]
        known = next((place[:end] for end in range(len(place), -1, -1) if place[:end] in marks), None)
        mark = Mark(str(path)) if known is None else marks[known]
        lines.append(f"{mark}: {dotted(place) or 'the task set'}: {fault['msg'].removeprefix('Value error, ')}")
    return lines
