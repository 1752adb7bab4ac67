"""A task that knows its rows' labels and exemplars: which template a row gets, and what is asked and answered."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Message
from ftune.data.formats.base import Values, text_of
from ftune.data.tasks.labels import LabelWords, labels_of, words_for
from ftune.data.tasks.task_set import LABEL, TaskSet
from ftune.data.tasks.template import OPTIONS, TaskTemplate, fill, placeholders

Asked = tuple[str, ...]
"""What is given to the model: the values of the placeholders that are not answers."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task set, bound to a source of rows.

    What a row gets is drawn from the seed and its own values: the same in any order, in any process, in any epoch.
    """

    task_set: TaskSet
    words: LabelWords | None
    """None where no template speaks of a label."""
    shots: tuple[int, ...]
    """How many exemplars stand before a row; one of these numbers is drawn for each row."""
    seed: int
    exemplars: Mapping[Asked, Mapping[str, str]]
    """The values of rows with answers, by what they ask."""

    @classmethod
    def of(cls, task_set: TaskSet, first: Sequence[Values], *, shots: Sequence[int], seed: int) -> Self:
        """Bind a set to the first rows. Raises DataError for columns that none of them has, or too few exemplars."""
        _check_columns(task_set, first)
        exemplars: dict[Asked, Mapping[str, str]] = {}
        task = cls(task_set, _words(task_set, first), tuple(shots), seed, exemplars)
        for row in first if max(shots) else ():
            try:
                exemplars.setdefault(task._asked(row), task._values((*task_set.names, OPTIONS), row))
            except DataError:
                continue  # told where the row itself is read
        if len(exemplars) <= max(shots) > 0:
            raise DataError(
                f"'format.shots' asks for {max(shots)} exemplars beside the row itself, but the first {len(first)} "
                f"rows hold {len(exemplars)} different rows with answers"
            )
        return task

    def example(self, row: Values) -> Conversation:
        """What is asked, after its exemplars, and the answer where the row has one. Raises DataError."""
        template, draw = self._drawn(row)
        answered = self._answered(row)
        values = self._values(placeholders(template.prompt), row)
        shots = [f"{fill(template.prompt, shot)}\n{fill(template.answer, shot)}" for shot in self._shots(row, draw)]
        asked = Message("user", "\n\n".join([*shots, fill(template.prompt, values)]))
        if not answered:
            return Conversation((asked,))
        values = self._values(placeholders(template.answer), row, blank=True)
        return Conversation((asked, Message("assistant", fill(template.answer, values))))

    def choices(self, row: Values) -> tuple[str, ...]:
        """All that the answer can be, where it is made of the label alone."""
        template, _ = self._drawn(row)
        if self.words is None or template.turned_around or placeholders(template.answer) != (LABEL,):
            return ()
        return tuple(fill(template.answer, {LABEL: word}) for word in self.words.options)

    def _drawn(self, row: Values) -> tuple[TaskTemplate, random.Random]:
        """The template of a row, and the generator that its other draws come from."""
        content = json.dumps(row, sort_keys=True, default=str)
        draw = random.Random(f"{self.seed} {content}")  # noqa: S311 - a seeded draw, no secret
        templates = self.task_set.templates
        if not self._answered(row):
            templates = [template for template in templates if not template.turned_around]
        return draw.choice(templates), draw

    def _shots(self, row: Values, draw: random.Random) -> list[Mapping[str, str]]:
        """The exemplars of a row: never one that asks what the row itself asks."""
        if not (count := draw.choice(self.shots)):
            return []
        own = self._asked(row)
        return draw.sample([values for asked, values in self.exemplars.items() if asked != own], count)

    def _answered(self, row: Values) -> bool:
        return all(self.task_set.column(name, row) for name in self.task_set.answered)

    def _asked(self, row: Values) -> Asked:
        return tuple(self._values(self.task_set.asked, row).values())

    def _values(self, names: Sequence[str], row: Values, *, blank: bool = False) -> dict[str, str]:
        """What these placeholders stand for, and the options; text must not be empty unless it may be `blank`."""
        values = {name: self._value(name, row, blank) for name in names if name != OPTIONS}
        if OPTIONS in names and self.words is not None:
            values[OPTIONS] = self.words.listed
        return values

    def _value(self, name: str, row: Values, blank: bool) -> str:
        column = self.task_set.column(name, row)
        if column is None:
            raise DataError(_missing(self.task_set, name, row))
        if name == LABEL and self.words is not None:
            return self.words.word(row, column)
        text = text_of(row, column)
        if not blank and not text.strip():
            raise DataError(f"'{column}' is empty; the templates need text for '{{{name}}}'")
        return text


def _words(task_set: TaskSet, first: Sequence[Values]) -> LabelWords | None:
    """The label words of these rows. DataError where a prompt lists them and there is no choice between two."""
    lists_options = any(template.lists_options for template in task_set.templates)
    if LABEL not in task_set.names and not lists_options:
        return None
    words = words_for(task_set.verbalizers, labels_of((row, task_set.column(LABEL, row) or LABEL) for row in first))
    if lists_options and len(words.options) < 2:
        raise DataError(
            f"the templates list '{{{OPTIONS}}}', but the first {len(first)} rows have fewer than two different "
            f"labels; name all of them under 'format.labels', as in '{{0: bad, 1: good}}'"
        )
    return words


def _check_columns(task_set: TaskSet, first: Sequence[Values]) -> None:
    """Every placeholder has a column in one of the first rows.

    The answer's may be missing (rows without answers), unless a column is called almost like it.
    """
    present = {column: None for row in first for column in row}
    for name in task_set.names:
        if any(task_set.column(name, row) for row in first):
            continue
        if name not in task_set.answered or "did you mean" in did_you_mean(name, present):
            raise DataError(_missing(task_set, name, present))


def _missing(task_set: TaskSet, name: str, present: Values) -> str:
    names = " or ".join(f"'{column}'" for column in task_set.columns.get(name, [name]))
    return f"no column {names} for the placeholder '{{{name}}}'{did_you_mean(name, present)}"
