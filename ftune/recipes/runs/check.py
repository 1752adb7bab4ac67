"""`ftune data check`: every row of a recipe, looked at."""

import json
from collections.abc import Iterator
from pathlib import Path

from ftune.core.checkpoints import write_atomically
from ftune.core.errors import DataError, RecipeError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.audit.audit import Audit, Measured
from ftune.data.audit.audit import Outcome as Looked
from ftune.data.audit.render import render
from ftune.data.audit.report import Part as Side
from ftune.data.encode import Encoder, encoded_batches, understood, understood_row
from ftune.data.intake import TOO_LONG, Outcome, Refusal, Rules, Sides, loses_its_end, settled
from ftune.data.row import BadRow, Row
from ftune.data.tokenize import RowTokenizer
from ftune.recipes.base import Recipe
from ftune.recipes.data_section import Source
from ftune.recipes.runs.inputs import load_text, looked_at, refused_layouts
from ftune.recipes.runs.rows import TextModel, load_rows
from ftune.recipes.training import TrainingRecipe
from ftune.report.data_page import data_page


def check(recipe: Recipe, *, strict: bool, as_json: bool, page: Path | None) -> bool:
    """Look at all rows and tell what was found; False where `strict` forbids what was found.

    `page` is an HTML file to write the findings and plots to. Raises DataError for files that cannot be read at all.
    """
    if not isinstance(recipe, TrainingRecipe):
        raise RecipeError("type: 'ftune data check' looks at the rows of recipes for 'sft' and 'rm'")
    quiet_bars()
    say = Say()
    _, text, positions = load_text(recipe, say)
    rules = looked_at(recipe.rules(positions))
    audit = Audit(bad_rows_end_run=recipe.data.on_bad_row == "error", seed=recipe.seed)
    refused = refused_layouts(recipe)
    held_out = _held_out(recipe, text, rules, refused)
    understood_as: list[str] = []
    with say.console.status("rows: 0") as status:
        for place, (source, side) in enumerate(_sources(recipe)):
            encoder, rows, remarks = _opened(source, recipe, text, rules)
            number = 0
            for batch, outcomes in encoded_batches(encoder, rows, recipe.data.num_proc):
                for row, outcome in zip(batch, outcomes, strict=True):
                    here: Side = "held-out" if (place, number) in held_out else side
                    audit.take(here, row.origin, *_looked_at(encoder, row, outcome, rules))
                    number += 1
                status.update(f"{source.path}: {number:,} rows")
            layout = encoder.layout
            understood_as.append("; ".join([f"{source.path}: {layout.format.name()} ({layout.reason})", *remarks]))
            say.line(understood_as[-1])
    for words in refused:
        say.warning(f"training would not start: {words}")
        audit.refuse(words.partition(": ")[0])
    report = audit.report()
    if page is not None:
        write_atomically(page, data_page(report.as_dict(), f"Data of {shown(Path(recipe.output_dir))}"))
        say.line(f"page: {shown(page)}")
    if as_json:
        say.result(json.dumps({"understood": understood_as, **report.as_dict()}, ensure_ascii=False))
    else:
        color = say.out.is_terminal and not say.out.no_color
        blocks = (say.out.encoding or "").lower().startswith("utf")
        say.out.print(render(report, color=color, width=min(say.out.width, 100), blocks=blocks), end="")
    return not (strict and report.strict)


def _sources(recipe: TrainingRecipe) -> Iterator[tuple[Source, Side]]:
    for source in recipe.data.train:
        yield source, "train"
    if recipe.data.validation is not None and recipe.data.validation.source is not None:
        yield recipe.data.validation.source, "held-out"


def _held_out(recipe: TrainingRecipe, text: TextModel, rules: Rules, refused: list[str]) -> set[tuple[int, int]]:
    """The rows that are held out of the training sources: number of the source and of the row in it.

    `refused` gets the reason why none can be.
    """
    if recipe.data.validation is None or recipe.data.validation.source is not None:
        return set()
    try:
        _, held_out = load_rows(recipe.data, text, rules, seed=recipe.seed)
    except DataError as error:
        refused.append(str(error).split("\n")[0])
        return set()
    return set() if held_out is None else set(zip(held_out.which.tolist(), held_out.numbers.tolist(), strict=True))


def _opened(
    source: Source, recipe: TrainingRecipe, text: TextModel, rules: Rules
) -> tuple[Encoder, Iterator[Row | BadRow], list[str]]:
    """What encodes the source's rows, the rows, and what reading them will have said about the files."""
    remarks: list[str] = []
    format = source.format or recipe.data.format
    layout, rows = understood(source.read(recipe.seed, remarks.append), format, tolerant=True, seed=recipe.seed)
    tokenizer = RowTokenizer(text.tokenizer, text.template, mask=rules.mask)
    return Encoder(layout, tokenizer, rules.answers, rules.classes), rows, remarks


def _looked_at(encoder: Encoder, row: Row | BadRow, outcome: Outcome, rules: Rules) -> tuple[Looked, Measured | None]:
    """What the audit is told of a row."""
    if isinstance(row, BadRow):
        return row, None
    if isinstance(outcome, list):
        outcome = max(outcome, key=lambda sides: sides.longest)
    if not isinstance(outcome, Sides):
        return outcome, None
    example, kept = understood_row(encoder.layout, row), settled(outcome, rules)
    too_long = isinstance(kept, Refusal) and kept.cause == TOO_LONG and kept.policy != "error"
    if isinstance(kept, Refusal) and not too_long:
        return DataError(kept.words), None
    cut = [] if isinstance(kept, Refusal) or len(kept) > 1 else zip(outcome.both(), kept[0].both(), strict=True)
    return example, Measured(
        tokens=outcome.longest,
        trained=sum(side.trained for side in outcome.both()),
        cut_answer=any(loses_its_end(before, after) for before, after in cut),
        too_long=too_long,
        control_text=any(side.control_text for side in outcome.both()),
    )
