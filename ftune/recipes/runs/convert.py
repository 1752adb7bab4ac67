"""`ftune data convert`: what was understood of the rows, as clean rows."""

from collections.abc import Iterator
from pathlib import Path

from ftune.core.errors import DataError
from ftune.core.paths import shown
from ftune.core.say import Say
from ftune.core.several import several
from ftune.data.convert import to_messages, write_rows
from ftune.data.encode import understood, understood_row
from ftune.data.example import Example, Skipped
from ftune.recipes.base import Recipe
from ftune.recipes.sft import SftRecipe

NAMED_ROWS = 10


def convert(recipe: Recipe, target: Path) -> None:
    """Write the training rows as ftune understood them; rows that it could not use are counted and left out.

    Raises DataError for files that cannot be read at all, and StorageError.
    """
    if not isinstance(recipe, SftRecipe):
        raise TypeError(f"nothing to convert in a recipe of '{type(recipe).__name__}'")
    say = Say()
    left_out: list[str] = []
    written = write_rows(target, map(to_messages, _examples(recipe, say, left_out)))
    for fault in left_out[:NAMED_ROWS]:
        say.line(f"  left out: {fault}")
    if len(left_out) > NAMED_ROWS:
        say.line(f"  and {len(left_out) - NAMED_ROWS:,} more")
    say.result(f"{several(written, 'row')}: {shown(target)}")


def _examples(recipe: SftRecipe, say: Say, left_out: list[str]) -> Iterator[Example]:
    """What the rows mean; `left_out` gets a line for each that means nothing."""
    for source in recipe.data.train:
        format, seed = source.format or recipe.data.format, recipe.seed
        layout, rows = understood(source.read(seed), format, tolerant=True, seed=seed)
        say.line(f"{source.path}: {layout.format.name()} ({layout.reason})")
        for row in rows:
            example = understood_row(layout, row)
            if isinstance(example, Skipped):
                left_out.append(f"{row.origin}: {example.cause}")
            elif isinstance(example, DataError):
                left_out.append(f"{row.origin}: {example}")
            else:
                yield example
