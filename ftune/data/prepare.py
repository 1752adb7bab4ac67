"""Rows to tokens, counted and checked: what `ftune data preview` shows is what training gets."""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Literal, TypeAlias

from ftune.core.errors import DataError
from ftune.data.checks import Check, check_rows
from ftune.data.counts import Counts
from ftune.data.example import Feedback, Plain, Preference, Skipped
from ftune.data.formats.base import RowFormat
from ftune.data.formats.detect import LOOK_AT, detect
from ftune.data.mask import MaskName
from ftune.data.row import Row
from ftune.data.template import Template
from ftune.data.tokenize import RowTokenizer, Tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

OnBadRow: TypeAlias = Literal["error", "drop"]
OnLongRow: TypeAlias = Literal["error", "drop", "truncate"]

MAX_FAULTS = 10
"""So many faults are listed at once; a file with more has one cause."""

BATCH = 1000
"""Rows that are tokenised in one call: enough for the tokenizer's threads, little memory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows that will be trained on, as tokens, and everything that was found out on the way."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    origins: list[str]
    """`file:line` of each row."""
    counts: Counts
    format: str
    """The row format's name."""
    reason: str
    """Why it was taken."""
    fingerprint: str
    """xxh3_128 of all ids and labels: equal for equal training data."""
    checks: list[Check]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.input_ids]

    def failed(self) -> list[Check]:
        """The checks that forbid training."""
        return [check for check in self.checks if not check.ok]


def prepare(
    rows: Iterable[Row],
    format: RowFormat | None,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template | None,
    *,
    mask: MaskName = "assistant",
    max_length: int | None = None,
    on_bad_row: OnBadRow = "error",
    on_long_row: OnLongRow = "error",
    vocab_size: int | None = None,
    num_proc: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Prepared:
    """Read, understand, tokenise, count and check rows.

    `format` None tells it from the first rows. `template` is needed for conversations only. `num_proc` processes
    tokenise; the result is the same for any number. `progress` is called with the number of rows read so far.
    Raises DataError with up to ten faulty rows, or when no row is left.
    """
    rows = iter(rows)
    format, reason, rows = _known_format(rows, format)
    intake = _Intake(max_length, on_bad_row, on_long_row)
    encoder = RowTokenizer(tokenizer, template, mask=mask)
    for batch, encoded in _encoded_batches(encoder, format, rows, num_proc):
        for row, tokens in zip(batch, encoded, strict=True):
            intake.take(row, tokens)
        if progress:
            progress(intake.counts.read)
    return intake.prepared(format.name(), reason, tokenizer, vocab_size or len(tokenizer))


def to_dataset(prepared: Prepared, indexes: Sequence[int] | None = None) -> "Dataset":
    """The rows (or those at `indexes`) for a trainer: `input_ids`, `labels`, and `row`, an index into `origins`."""
    from datasets import Dataset

    chosen = range(len(prepared.input_ids)) if indexes is None else indexes
    return Dataset.from_dict(
        {
            "input_ids": [prepared.input_ids[index] for index in chosen],
            "labels": [prepared.labels[index] for index in chosen],
            "row": list(chosen),
        }
    )


def fingerprint(input_ids: Iterable[Sequence[int]], labels: Iterable[Sequence[int]]) -> str:
    """xxh3_128 of the rows in order: their lengths, ids and labels as little-endian 64-bit numbers."""
    from xxhash import xxh3_128

    digest = xxh3_128()
    for ids, marks in zip(input_ids, labels, strict=True):
        digest.update(array("q", [len(ids), *ids, *marks]).tobytes())
    return digest.hexdigest()


def _known_format(rows: Iterator[Row], format: RowFormat | None) -> tuple[RowFormat, str, Iterator[Row]]:
    first = list(islice(rows, LOOK_AT))
    if not first:
        raise DataError("there are no rows")
    if format is not None:
        return format, "named in the recipe", chain(first, rows)
    detected = detect(first)
    return detected.format, detected.reason, chain(first, rows)


def _encoded_batches(
    encoder: RowTokenizer, format: RowFormat, rows: Iterator[Row], num_proc: int
) -> Iterator[tuple[list[Row], list[Tokens | DataError]]]:
    """Batches of rows in their order with what became of them."""
    batches = iter(lambda: list(islice(rows, BATCH)), [])
    if num_proc == 1:
        for batch in batches:
            yield batch, _encoded(encoder, format, batch)
        return
    with get_context("fork").Pool(num_proc, _begin_work, (encoder, format)) as pool:
        yield from pool.imap(_work, batches)


_worker: tuple[RowTokenizer, RowFormat]


def _begin_work(encoder: RowTokenizer, format: RowFormat) -> None:
    """Set up a worker process. Its tokenizer must not use threads: they do not survive the fork."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = (encoder, format)


def _work(batch: list[Row]) -> tuple[list[Row], list[Tokens | DataError]]:
    return batch, _encoded(*_worker, batch)


def _encoded(encoder: RowTokenizer, format: RowFormat, rows: Sequence[Row]) -> list[Tokens | DataError]:
    """The tokens of each row, or what is wrong with it."""
    read = [_example(format, row) for row in rows]
    tokens = iter(encoder.encode_batch([example for example in read if not isinstance(example, DataError)]))
    return [example if isinstance(example, DataError) else next(tokens) for example in read]


def _example(format: RowFormat, row: Row) -> Plain | DataError:
    try:
        example = format.to_example(row.values)
        if isinstance(example, Preference | Feedback | Skipped):
            raise DataError("the row has no single answer to train on")
        return example
    except DataError as error:
        return error


@dataclass(slots=True)
class _Intake:
    """Takes rows one by one: keeps, cuts, drops or refuses them, and counts what it did."""

    max_length: int | None
    on_bad_row: OnBadRow
    on_long_row: OnLongRow
    counts: Counts = field(default_factory=Counts)
    kept: list[Tokens] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def take(self, row: Row, tokens: Tokens | DataError) -> None:
        self.counts.read += 1
        if isinstance(tokens, DataError):
            self._refuse(row, str(tokens), "the row does not fit its format or template", self.on_bad_row)
            return
        if len(tokens.input_ids) > self.counts.longest:
            self.counts.longest, self.counts.longest_row = len(tokens.input_ids), row.origin
        if self.max_length is not None and len(tokens.input_ids) > self.max_length and self.on_long_row != "truncate":
            fault = (
                f"{len(tokens.input_ids):,} tokens, but max_length is {self.max_length:,}; raise 'data.max_length' or "
                "set 'data.on_long_row' to truncate or drop"
            )
            self._refuse(row, fault, "longer than max_length", self.on_long_row)
            return
        self._keep(row, tokens)

    def _keep(self, row: Row, tokens: Tokens) -> None:
        kept = tokens if self.max_length is None else tokens.truncated(self.max_length)
        if not kept.trained:
            cut = " within max_length" if tokens.trained else ""
            fault = f"nothing to train on: the row has no answer{cut}; set 'data.on_bad_row: drop' to leave it out"
            self._refuse(row, fault, f"no trained token{cut}", self.on_bad_row)
            return
        self.kept.append(kept)
        self.origins.append(row.origin)
        self.counts.truncated += len(kept.input_ids) < len(tokens.input_ids)
        self.counts.truncated_completions += kept.trained < tokens.trained
        self.counts.truncated_stop_tokens += bool(tokens.answers) and tokens.answers[-1].end > len(kept.input_ids)
        self.counts.empty_completions += kept.empty_answers
        self.counts.control_text += kept.control_text

    def _refuse(self, row: Row, fault: str, cause: str, policy: str) -> None:
        self.counts.drop(cause)
        if policy == "error":
            self.faults.append(f"{row.origin}: {fault}")
            if len(self.faults) == MAX_FAULTS:
                raise DataError("\n".join([*self.faults, f"stopped after {MAX_FAULTS} faulty rows"]))

    def prepared(self, format: str, reason: str, tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> Prepared:
        """The end of the intake: an error when rows were faulty or none is left, else the result."""
        if self.faults:
            raise DataError("\n".join(self.faults))
        if not self.kept:
            causes = ", ".join(f"{number:,} {cause}" for cause, number in self.counts.dropped.items())
            raise DataError(f"all {self.counts.read:,} rows were dropped ({causes}); nothing is left to train on")
        self.counts.measure([len(row.input_ids) for row in self.kept], [row.trained for row in self.kept])
        ids, labels = [row.input_ids for row in self.kept], [row.labels for row in self.kept]
        checks = check_rows(self.kept, self.origins, tokenizer, vocab_size)
        return Prepared(ids, labels, self.origins, self.counts, format, reason, fingerprint(ids, labels), checks)
