"""Rows to tokens, counted and checked: what `ftune data preview` shows is what training gets."""

import json
from array import array
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest, xxh3_128

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.checks import Checker
from ftune.data.encode import Encoder, encoded_batches, understood
from ftune.data.formats.base import RowFormat
from ftune.data.intake import Intake, Rules, Sides
from ftune.data.prepared import Part
from ftune.data.row import BadRow, Row
from ftune.data.table import TableWriter, TokenTable
from ftune.data.template import Template
from ftune.data.tokenize import IGNORED, RowTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REJECTED = "rejected"
"""The folder of the rejected answers' table, inside of that of the chosen ones."""

Progress = Callable[[int], None]


def prepare(
    rows: Iterable[Row | BadRow],
    format: RowFormat | None,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template | None,
    rules: Rules,
    *,
    folder: Path | None = None,
    vocab_size: int | None = None,
    num_proc: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    reader: RowTokenizer | None = None,
) -> Part:
    """Understand, tokenise, count and check rows.

    `format` None tells it from the first rows. `template` is needed for conversations only; a `reader` encodes by
    itself, for models that read rows in another way than language models do. The tables are written to
    `folder` (empty) and mapped from there, so that memory does not grow with the rows; without one they are read into
    memory. `num_proc` processes tokenise; the result is the same for any number. `seed` is for formats that draw.
    `progress` is called with the number of rows read so far. Raises DataError with up to ten faulty rows, or when no
    row is left.
    """
    layout, rows = understood(rows, format, tolerant=rules.on_bad_row == "drop", seed=seed)
    reader = reader or RowTokenizer(tokenizer, template, mask=rules.mask)
    encoder = Encoder(layout, reader, rules.answers, rules.classes)
    with ExitStack() as stack:
        target = folder or Path(stack.enter_context(TemporaryDirectory(prefix="ftune-")))
        (target / REJECTED).mkdir()
        with TableWriter(target) as main, TableWriter(target / REJECTED) as rejected:
            tables = _Tables(main, rejected, rules.group)
            intake = Intake(rules, Checker(tokenizer, vocab_size or len(tokenizer)), tables.write)
            for batch, outcomes in encoded_batches(encoder, rows, num_proc):
                for row, outcome in zip(batch, outcomes, strict=True):
                    intake.take(row, outcome)
                if progress:
                    progress(intake.counts.read)
        intake.finish()
        part = Part(
            table=TokenTable.open(target, main.names, mapped=folder is not None),
            rejected=TokenTable.open(target / REJECTED, rejected.names, mapped=folder is not None),
            counts=intake.counts,
            checks=intake.checker.checks(),
            format=layout.format.name(),
            reason=layout.reason,
            fingerprint=tables.digest.hexdigest(),
        )
        part.counts.measure(part.table.lengths.tolist(), part.table.trained_counts.tolist())
        return part


@dataclass(slots=True)
class _Tables:
    """Where kept rows go: the answers' table, and that of the rejected ones."""

    main: TableWriter
    rejected: TableWriter
    group: str | None
    digest: xxh3_128 = field(default_factory=xxh3_128)

    def write(self, row: Row, number: int, sides: Sides) -> None:
        ids = [array("i", [len(side.input_ids), *side.input_ids]).tobytes() for side in sides.both()]
        key = xxh3_64_intdigest(b"".join(ids))
        group = 0
        if self.group is not None:
            if self.group not in row.values:
                raise DataError(
                    f"{row.origin}: there is no column '{self.group}' to hold rows out by"
                    f"{did_you_mean(self.group, row.values)}"
                )
            group = xxh3_64_intdigest(json.dumps(row.values[self.group], sort_keys=True, default=str).encode())
        for side, writer, held in zip(sides.both(), (self.main, self.rejected), ids, strict=False):
            writer.add(row, side, number=number, key=key, group=group, score=sides.score)
            self.digest.update(held)
            self.digest.update(array("b", [label != IGNORED for label in side.labels]).tobytes())
