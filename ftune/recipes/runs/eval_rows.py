"""Which rows an evaluation is of, and what each of them means: what it meant in the training that held it out."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.several import several
from ftune.data.counts import NAMED_FAULTS
from ftune.data.example import Example, Feedback, Plain, Preference, Skipped
from ftune.data.row import BadRow, Row
from ftune.merge.sources import Found
from ftune.report.run_folder import read_command

if TYPE_CHECKING:
    from ftune.data.formats.base import RowFormat
    from ftune.data.prepared import Indexes, Prepared
    from ftune.recipes.data_section import Source
    from ftune.recipes.eval import EvalRecipe
    from ftune.recipes.training import TrainingRecipe

T = TypeVar("T")


class Meant(NamedTuple):
    """A row and what it means."""

    row: Row
    example: Plain
    words: tuple[str, ...]
    """Label words, of which the answer is one."""


class JudgedRows(NamedTuple):
    """Rows of one source, and their layout where it is named."""

    rows: "Sequence[Row | BadRow]"
    format: "RowFormat | None"


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where rows come from, and how they were read in the training if that held them out."""

    source: "Source"
    format: "RowFormat | None"
    seed: int
    drops: bool
    """Whether faulty rows are left out."""
    held_out: "Indexes | None" = None
    """The numbers of the rows that count; None for all."""

    def read(self) -> "Iterator[Row | BadRow]":
        """The rows that count."""
        wanted = None if self.held_out is None else set(self.held_out.tolist())
        rows = self.source.read(self.seed)
        return rows if wanted is None else (row for number, row in enumerate(rows) if number in wanted)


@dataclass(slots=True)
class _Met:
    """What was met beside rows that are used as they are."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that cannot be used, by cause."""
    faults: list[str] = field(default_factory=list)
    """A line for each row that should have been usable."""
    preferences: int = 0

    def refuse(self, row: Row | BadRow, cause: str, *, drops: bool) -> None:
        """A faulty row. Raises DataError at the tenth, where they are not left out."""
        if drops:
            self.left_out["the row cannot be read or does not fit its format"] += 1
            return
        self.faults.append(f"{row.origin}: {cause}")
        if len(self.faults) == NAMED_FAULTS:
            raise DataError("\n".join([*self.faults, f"stopped after {NAMED_FAULTS} faulty rows"]))


def meant_rows(recipe: "EvalRecipe", found: Found, say: Say) -> tuple[list[Meant], int]:
    """The rows with what they mean, as many as the recipe takes; and how many could not be used.

    Of two answers the chosen one is what is wanted. Raises DataError for faulty rows that the training would not have
    left out, and where no row is left.
    """
    met = _Met()
    rows = [meant for origin in _origins(recipe, found, say) for meant in _meant(origin, met)]
    if met.faults:
        raise DataError("\n".join(met.faults))
    if met.preferences:
        say.line(f"{several(met.preferences, 'row')} with two answers: the chosen one is what is wanted")
    for cause, number in sorted(met.left_out.items()):
        say.line(f"{several(number, 'row')} left out: {cause}")
    if not rows:
        causes = ", ".join(f"{number:,} {cause}" for cause, number in met.left_out.items())
        raise DataError(f"rows: none is left to evaluate on ({causes})")
    return _limited(rows, recipe), met.left_out.total()


def judged_rows(recipe: "EvalRecipe", found: Found, say: Say) -> list[JudgedRows]:
    """Rows with verdicts or classes, for what scores them, source by source."""
    origins = _origins(recipe, found, say)
    every = [(part, row) for part, origin in enumerate(origins) for row in origin.read()]
    taken = _limited(every, recipe)
    parts = [[row for part, row in taken if part == number] for number in range(len(origins))]
    return [JudgedRows(rows, origin.format) for rows, origin in zip(parts, origins, strict=True) if rows]


def _limited(rows: list[T], recipe: "EvalRecipe") -> list[T]:
    """As many as the recipe takes, in their order."""
    if recipe.limit is None or recipe.limit >= len(rows):
        return rows
    drawn = random.Random(recipe.seed).sample(range(len(rows)), recipe.limit)  # noqa: S311 - a draw of rows
    return [rows[place] for place in sorted(drawn)]


def held_out_sequences(recipe: "EvalRecipe", found: Found, say: Say) -> "Prepared | None":
    """The sequences that a run held out, as it evaluated them while training; None where other rows are asked for."""
    from ftune.recipes.runs.inputs import load_inputs

    trained = _recipe_of(found)
    return None if recipe.rows is not None or trained is None else load_inputs(trained, say).validation


def longest_text(found: Found) -> int | None:
    """Tokens of the sequences that the run which made a model cuts texts into; None for what no run has made."""
    trained = _recipe_of(found)
    return trained.data.max_length if trained else None


def _origins(recipe: "EvalRecipe", found: Found, say: Say) -> list[_Origin]:
    """The recipe's rows, or those that the run held out."""
    trained = _recipe_of(found)
    if recipe.rows is not None:
        format = recipe.rows.format or (_format_of(trained) if trained else None)
        return [_Origin(recipe.rows, format, recipe.seed, drops=False)]
    validation = trained.data.validation if trained else None
    if trained is None or validation is None:
        raise DataError("rows: there are no held-out rows of a run; give the rows to evaluate: rows=FILE")
    data, drops = trained.data, trained.data.on_bad_row == "drop"
    if validation.source is not None:
        return [_Origin(validation.source, validation.source.format or data.format, trained.seed, drops)]
    from ftune.recipes.runs.inputs import load_inputs

    held_out = load_inputs(trained, say).validation
    return [
        _Origin(source, source.format or data.format, trained.seed, drops, held_out.numbers[held_out.which == part])
        for part, source in enumerate(data.train)
        if held_out is not None and part in held_out.which
    ]


def _format_of(trained: "TrainingRecipe") -> "RowFormat | None":
    """The one layout that all training rows were said to have."""
    first, *others = [source.format or trained.data.format for source in trained.data.train]
    return first if all(other == first for other in others) else None


def _recipe_of(found: Found) -> "TrainingRecipe | None":
    """The recipe of the run that made a model, where it trained on rows."""
    from ftune.recipes.load import load_resolved
    from ftune.recipes.training import TrainingRecipe

    if found.run is None:
        return None
    recipe = load_resolved(read_command(found.run), found.run / "recipe.resolved.json")
    return recipe if isinstance(recipe, TrainingRecipe) else None


def _meant(origin: _Origin, met: _Met) -> Iterator[Meant]:
    """The rows of one source. The layout takes labels and exemplars from its first rows, as it did in the training."""
    from ftune.data.encode import understood, understood_row

    first, tolerant = origin.source.read(origin.seed), origin.drops
    layout, _ = understood(first, origin.format, tolerant=tolerant, seed=origin.seed)
    for row in origin.read():
        example = understood_row(layout, row)
        if isinstance(row, BadRow) or isinstance(example, DataError):
            met.refuse(row, str(example), drops=origin.drops)
        elif isinstance(example, Skipped):
            met.left_out[example.cause] += 1
        elif isinstance(example, Feedback) and not example.good:
            met.left_out["its answer was judged bad"] += 1
        else:
            met.preferences += isinstance(example, Preference)
            yield Meant(row, _wanted(example), layout.format.choices(layout.tidied(row.values)))


def _wanted(example: Example) -> Plain:
    """Of two answers the chosen one, of a judged one the answer."""
    match example:
        case Preference():
            return example.chosen
        case Feedback():
            return example.example
        case _:
            return example
