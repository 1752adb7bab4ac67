"""Sources larger than memory: read, shuffled within a buffer and tokenised window by window, from any position on.

A window is the next 1,000 rows of the shuffled mixture. To go on at a position, the rows before its window are read but
not tokenised; the window itself is made again, so the sequences after the position are those of a run that never
stopped.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TypeAlias, TypeVar

from ftune.core.errors import DataError
from ftune.data.checks import Checker
from ftune.data.encode import BATCH, Encoder
from ftune.data.intake import Intake, Outcome, Rules, Sides
from ftune.data.mixing.base import Mix
from ftune.data.pack import pack
from ftune.data.row import BadRow, Row
from ftune.data.tokenize import Tokens

BARREN_WINDOWS = 100
"""So many windows without a sequence end the stream: there is no reason to hope for the next."""

T = TypeVar("T")

Item: TypeAlias = tuple[int, Row | BadRow]
"""A row and the number of its source."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: so many sequences of this window were taken."""

    window: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class StreamedSequence:
    """One sequence of a stream: a row, or several rows packed."""

    rows: list[Tokens]
    origins: list[str]
    after: Position
    """Where the stream stands behind it."""


@dataclass(slots=True)
class Stream:
    """Sequences without end: when the sources are used up, the next epoch begins, in another order."""

    sources: Sequence[Callable[[], Iterator[Row | BadRow]]]
    """Each opens one source from its beginning."""
    encoders: Sequence[Encoder]
    weights: Sequence[float]
    mix: Mix
    rules: Rules
    checker: Checker
    buffer: int
    """Rows that are held to be shuffled."""
    seed: int
    capacity: int | None = None
    """Tokens of a packed sequence; None for one row a sequence."""
    intake: Intake = field(init=False)
    """Counts of all rows seen so far; those of windows that are made again count twice."""
    _kept: list[tuple[Row, Sides]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Collect what the intake keeps."""
        self.intake = Intake(self.rules, self.checker, lambda row, number, sides: self._kept.append((row, sides)))

    def sequences(self, start: Position = Position()) -> Iterator[StreamedSequence]:
        """Sequences from `start` on. Raises DataError for faulty rows, and when a whole epoch gives nothing."""
        rows = self._rows()
        for _ in range(start.window * BATCH):
            next(rows)
        barren = 0
        for number in count(start.window):
            made = self._window(number, list(islice(rows, BATCH)))
            barren = 0 if made else barren + 1
            if barren == BARREN_WINDOWS:
                raise DataError(
                    f"{barren * BATCH:,} rows of the stream in a row gave nothing to train on "
                    f"({', '.join(self.intake.counts.dropped)}); 'ftune data check' shows why"
                )
            for place, (tokens, origins) in enumerate(made):
                if number > start.window or place >= start.taken:
                    yield StreamedSequence(tokens, origins, Position(number, place + 1))

    def _rows(self) -> Iterator[Item]:
        """The mixture, epoch after epoch."""
        for epoch in count():
            rows = self.mix.stream(self.sources, self.weights, self.seed + epoch)
            yield from shuffled(rows, self.buffer, self.seed + epoch)

    def _window(self, number: int, items: Sequence[Item]) -> list[tuple[list[Tokens], list[str]]]:
        """The sequences of one window, in the order of its rows; packed ones shuffled.

        Packing begins with the longest rows: in its order, each window would end with nothing but short answers.
        """
        outcomes: list[Outcome] = [DataError("")] * len(items)
        for own, encoder in enumerate(self.encoders):
            here = [place for place, (source, _) in enumerate(items) if source == own]
            for place, outcome in zip(here, encoder.outcomes([items[place][1] for place in here]), strict=True):
                outcomes[place] = outcome
        for (_, row), outcome in zip(items, outcomes, strict=True):
            self.intake.take(row, outcome)
        self.intake.raise_errors()
        kept = [(sides.main, row.origin) for row, sides in self._kept]
        self._kept.clear()
        if self.capacity is None:
            return [([tokens], [origin]) for tokens, origin in kept]
        bins = pack([len(tokens.input_ids) for tokens, _ in kept], self.capacity)
        random.Random(f"{self.seed} {number}").shuffle(bins)  # noqa: S311 - a repeatable shuffle, no secret
        return [([kept[row][0] for row in rows], [kept[row][1] for row in rows]) for rows in bins]


def shuffled(rows: Iterator[T], buffer: int, seed: int) -> Iterator[T]:
    """The rows in an order that a seeded buffer gives: each leaves it when the draw falls on its place."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable shuffle, no secret
    held = list(islice(rows, buffer))
    for row in rows:
        place = rng.randrange(buffer)
        yield held[place]
        held[place] = row
    rng.shuffle(held)
    yield from held
