"""The audit of a data set, row by row."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ftune.core.errors import DataError
from ftune.data.audit.balance import BalanceTally
from ftune.data.audit.duplicates import Duplicates
from ftune.data.audit.lengths import LengthTally
from ftune.data.audit.report import PARTS, SEVERITIES, Dropped, Finding, Part, PartCounts, Report
from ftune.data.audit.rules import Tally, finding
from ftune.data.audit.signs import signs_in
from ftune.data.audit.structure import shape_faults
from ftune.data.audit.texts import texts_of
from ftune.data.example import Example, Skipped
from ftune.data.intake import TOO_LONG
from ftune.data.row import BadRow

Outcome: TypeAlias = Example | Skipped | DataError | BadRow
"""What became of a row: its meaning, or why it was skipped, or why it could not be used."""

MAX_CAUSES = 20
"""So many causes of dropped rows are told apart."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What tokenising a row showed."""

    tokens: int
    """Before any cut; of a pair the longer side."""
    trained: int
    """Trained tokens before any cut; of a pair those of both sides."""
    cut_answer: bool = False
    """Whether the row was cut and lost the end of an answer."""
    too_long: bool = False
    """Whether it was left out because of its length."""
    control_text: bool = False
    """Whether its text holds control tokens."""


class Audit:
    """Takes rows one by one and keeps hashes, counters and a few places of each kind; no text.

    Memory: about 50 bytes a row, and 560 bytes more for each of at most `near_limit` rows of a part; the report makes
    two copies of these. Above that limit, near duplicates are looked for in a sample drawn with `seed`.
    """

    def __init__(self, *, bad_rows_end_run: bool = True, near_limit: int = 200_000, seed: int = 0) -> None:
        """`bad_rows_end_run` False: the recipe leaves rows out that cannot be used."""
        self._bad_rule = "bad_rows" if bad_rows_end_run else "bad_rows_dropped"
        self._read: Counter[Part] = Counter()
        self._kept: Counter[Part] = Counter()
        self._tokens: Counter[Part] = Counter()
        self._trained: Counter[Part] = Counter()
        self._dropped: dict[str, Tally] = {}
        self._tallies: dict[str, Tally] = {}
        self._in_tokens, self._in_characters = LengthTally("tokens"), LengthTally("characters")
        self._balance = BalanceTally()
        self._duplicates = Duplicates(near_limit, seed)

    def take(self, part: Part, origin: str, outcome: Outcome, measured: Measured | None = None) -> None:
        """Look at one row. `origin` is its `file:line`; `measured` is there where it was tokenised.

        A row that cannot be tokenised, or that ends the run for its length, comes as the DataError that says so.
        """
        self._read[part] += 1
        match outcome:
            case DataError():
                self._drop(self._bad_rule, _kind(str(outcome)), origin)
            case BadRow():
                self._drop(self._bad_rule, _kind(outcome.cause), origin)
            case Skipped():
                self._drop("skipped", outcome.cause, origin)
            case _:
                self._look_at(part, origin, outcome, measured)

    def refuse(self, origin: str) -> None:
        """Why training would not start: rows of more than one layout in a source, or none that can be held out."""
        self._count("refused", origin)

    def report(self) -> Report:
        """All that was found so far."""
        lengths = self._in_tokens.measured() or self._in_characters.measured()
        dropped = sorted(self._dropped.items(), key=lambda item: -item[1].count)
        parts = [part for part in PARTS if self._read[part]]
        counts = (self._read, self._kept, self._tokens, self._trained)
        return Report(
            parts=tuple(PartCounts(part, *(count[part] for count in counts)) for part in parts),
            dropped=tuple(Dropped(cause, tally.count, tuple(tally.places)) for cause, tally in dropped),
            lengths=lengths,
            balances=self._balance.balances(),
            findings=tuple(sorted(self._findings(), key=lambda one: (SEVERITIES.index(one.severity), -one.count))),
            notes=tuple(self._duplicates.notes()),
        )

    def _look_at(self, part: Part, origin: str, example: Example, measured: Measured | None) -> None:
        if measured:
            self._in_tokens.add(measured.tokens, origin)
            if measured.too_long:
                self._drop("too_long", TOO_LONG, origin)
                return
            self._tokens[part] += measured.tokens
            self._trained[part] += measured.trained
        self._kept[part] += 1
        texts = texts_of(example)
        self._in_characters.add(len(texts.everything), origin)
        self._duplicates.add(part, origin, texts)
        self._balance.add(example, texts, origin)
        for id in shape_faults(example) | set(signs_in(texts.everything)):
            self._count(id, origin)
        if measured and measured.cut_answer:
            self._count("truncated", origin)
        if measured and measured.control_text:
            self._count("control_text", origin)

    def _drop(self, id: str, cause: str, origin: str) -> None:
        self._count(id, origin)
        if cause not in self._dropped and len(self._dropped) >= MAX_CAUSES:
            cause = "other causes"
        self._dropped.setdefault(cause, Tally()).add(origin)

    def _count(self, id: str, origin: str) -> None:
        self._tallies.setdefault(id, Tally()).add(origin)

    def _findings(self) -> Iterator[Finding]:
        for id, tally in self._tallies.items():
            yield finding(id, tally.count, tally.places)
        yield from self._duplicates.findings()
        yield from self._balance.findings()
        yield from self._in_tokens.findings() if self._in_tokens.measured() else self._in_characters.findings()
        if self._read.total() and not self._kept.total():
            yield finding("nothing_kept", self._read.total())


def _kind(cause: str) -> str:
    """A cause without what is of one row only: the text that it quotes, and numbers."""
    without_text = re.sub(r"the text (?:'.*?(?<!\\)'|\".*?(?<!\\)\")", "a text", cause, flags=re.DOTALL)
    return re.sub(r"\d[\d,.]*", "N", without_text)
