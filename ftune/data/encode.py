"""Rows to what they become: understood by the layout, encoded by the tokenizer, one outcome a row."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult
from typing import TypeAlias

from ftune.core.errors import DataError
from ftune.data.example import Example, Feedback, Labelled, Plain, Preference, Skipped, Text
from ftune.data.formats.base import RowFormat
from ftune.data.formats.detect import LOOK_AT, Detected, detect, named
from ftune.data.intake import Answers, Outcome, Sides
from ftune.data.row import BadRow, Row
from ftune.data.tokenize import RowTokenizer, Tokens

BATCH = 1000
"""Rows that are tokenised in one call: enough for the tokenizer's threads, little memory."""

FIRST = 200
"""From so many rows a format may take its examples and its labels."""

Batch: TypeAlias = list[Row | BadRow]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Everything that turns rows of one source into tokens."""

    layout: Detected
    tokenizer: RowTokenizer
    answers: Answers = "one"
    classes: tuple[str, ...] = ()
    """Of `answers="class"`: the names that a row's class is one of."""

    def outcomes(self, batch: Sequence[Row | BadRow]) -> list[Outcome]:
        """The tokens of each row, or why there are none."""
        read = [self._planned(row) for row in batch]
        plain = [side for plan in read if isinstance(plan, _Plan) for side in plan.sides]
        encoded = iter(self.tokenizer.encode_batch(plain))
        return [_sides(plan, encoded) if isinstance(plan, _Plan) else plan for plan in read]

    def _planned(self, row: Row | BadRow) -> "_Plan | Skipped | DataError":
        example = (labelled_row if self.answers == "class" else understood_row)(self.layout, row)
        if isinstance(example, Skipped | DataError):
            return example
        try:
            return _plan_of(example, self.answers, self.classes)
        except DataError as error:
            return error


@dataclass(frozen=True, slots=True)
class _Plan:
    sides: list[Plain]
    score: float = float("nan")
    ranks: tuple[float, ...] = ()
    """Of a ranking that becomes pairs: how good each side is."""
    is_text: bool = False


def _plan_of(example: Example | Labelled, answers: Answers, classes: tuple[str, ...]) -> _Plan | Skipped:
    match example:
        case Labelled():
            return _Plan([example.text], float(_class_of(example, classes)))
        case Preference() if answers == "pairs" and example.ranking:
            return _Plan([side for side, _ in example.ranking], ranks=tuple(rank for _, rank in example.ranking))
        case Preference() | Feedback() if answers == "one":
            raise DataError(
                f"{'two answers, one of them better' if isinstance(example, Preference) else 'an answer and a verdict'}"
                ", where one answer to train on is needed; 'data.on_preference: chosen' trains on the good ones"
            )
        case Preference() if answers in ("both", "pairs"):
            margin = float("nan") if example.margin is None else example.margin
            return _Plan([example.chosen, example.rejected], margin)
        case Preference():
            return _Plan([example.chosen])
        case _ if answers == "pairs":
            raise DataError("one answer, where a chosen and a rejected one are needed")
        case Feedback() if answers == "chosen" and not example.good:
            return Skipped("its answer was judged bad")
        case Feedback():
            return _Plan([example.example], float(example.good))
        case _:
            return _Plan([example], is_text=isinstance(example, Text))


def _class_of(example: Labelled, classes: tuple[str, ...]) -> int:
    if example.label not in classes:
        raise DataError(f"its class '{example.label}' is none of the classifier's: {', '.join(classes)}")
    return classes.index(example.label)


def _sides(plan: _Plan, encoded: Iterator[Tokens | DataError]) -> Outcome:
    tokens = list(islice(encoded, len(plan.sides)))
    for side in tokens:
        if isinstance(side, DataError):
            return side
    main, *others = sides = [side for side in tokens if isinstance(side, Tokens)]
    if plan.ranks:
        return _pairs(sides, plan.ranks)
    return Sides(main, others[0] if others else None, plan.score, plan.is_text)


def _pairs(sides: Sequence[Tokens], ranks: Sequence[float]) -> list[Sides] | Skipped:
    """Every pair of which one side is better, that one first; the difference of the ranks is the margin."""
    best_first = sorted(zip(ranks, sides, strict=True), key=lambda judged: -judged[0])
    pairs = [
        Sides(better, worse, high - low)
        for (high, better), (low, worse) in combinations(best_first, 2)
        if high > low and better.input_ids != worse.input_ids
    ]
    return pairs or Skipped("its answers are the same")


def understood_row(layout: Detected, row: Row | BadRow) -> Example | Skipped | DataError:
    """What one row means, or why it means nothing."""
    if isinstance(row, BadRow):
        return DataError(row.cause)
    try:
        return layout.read(row.values)
    except DataError as error:
        return error


def labelled_row(layout: Detected, row: Row | BadRow) -> Labelled | DataError:
    """One row as a text and its class, or why it is none."""
    if isinstance(row, BadRow):
        return DataError(row.cause)
    try:
        return layout.format.to_labelled(layout.tidied(row.values))
    except DataError as error:
        return error


def understood(
    rows: Iterable[Row | BadRow], format: RowFormat | None, *, tolerant: bool, seed: int
) -> tuple[Detected, Iterator[Row | BadRow]]:
    """The layout of these rows, and all of the rows again.

    `format` None tells it from the first rows; `tolerant` takes the commonest where they differ. Raises DataError.
    """
    rows = iter(rows)
    first = list(islice(rows, FIRST))
    readable = [row for row in first if isinstance(row, Row)]
    if not readable:
        causes = "".join(f"\n{row.origin}: {row.cause}" for row in first[:10] if isinstance(row, BadRow))
        raise DataError(f"there are no rows that can be read{causes}")
    looked_at = readable[:LOOK_AT]
    layout = named(format, looked_at) if format is not None else detect(looked_at, tolerant=tolerant)
    try:
        bound = layout.format.bound([layout.tidied(row.values) for row in readable], seed)
    except DataError as error:
        raise DataError(f"{readable[0].file}: {error}") from None
    return replace(layout, format=bound), chain(first, rows)


def encoded_batches(
    encoder: Encoder, rows: Iterable[Row | BadRow], num_proc: int
) -> Iterator[tuple[Batch, list[Outcome]]]:
    """Batches of rows in their order with what became of them; `num_proc` processes work."""
    rows = iter(rows)
    batches = iter(lambda: list(islice(rows, BATCH)), [])
    if num_proc == 1:
        for batch in batches:
            yield batch, encoder.outcomes(batch)
        return
    with get_context("fork").Pool(num_proc, _begin_work, (encoder,)) as pool:
        pending: deque[tuple[Batch, AsyncResult[list[Outcome]]]] = deque()
        for batch in batches:
            pending.append((batch, pool.apply_async(_work, (batch,))))
            if len(pending) > 2 * num_proc:  # no further ahead: memory stays bounded
                first, result = pending.popleft()
                yield first, result.get()
        for batch, result in pending:
            yield batch, result.get()


_worker: Encoder


def _begin_work(encoder: Encoder) -> None:
    """Set up a worker process. Its tokenizer must not use threads: they do not survive the fork."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = encoder


def _work(batch: Batch) -> list[Outcome]:
    return _worker.outcomes(batch)
