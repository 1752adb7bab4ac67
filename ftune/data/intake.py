"""Rows as they come in: kept, cut, dropped or refused, and every one of them counted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ftune.core.errors import DataError
from ftune.data.checks import Checker
from ftune.data.counts import NAMED_FAULTS, Counts
from ftune.data.example import Skipped
from ftune.data.mask import MaskName
from ftune.data.row import BadRow, Row
from ftune.data.table import pieces_of
from ftune.data.tokenize import Tokens

OnBadRow: TypeAlias = Literal["error", "drop"]
OnLongRow: TypeAlias = Literal["auto", "error", "drop", "truncate"]
Answers: TypeAlias = Literal["one", "chosen", "both", "pairs", "class"]

TOO_LONG = "longer than max_length"


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows become sequences."""

    mask: MaskName = "assistant"
    max_length: int | None = None
    on_bad_row: OnBadRow = "error"
    on_long_row: OnLongRow = "auto"
    """`auto` splits plain text into sequences of `max_length` and drops other rows."""
    answers: Answers = "one"
    """Of preferences and feedback: `one` refuses them, `chosen` takes the good answer, `both` all that is there.

    `pairs` wants preferences and takes every pair of a ranking, `class` wants a text with its class.
    """
    classes: tuple[str, ...] = ()
    """The names of the classes that rows may have; a row's score is the place of its class here."""
    prompts: bool = False
    """Keep rows that have no answer too."""
    group: str | None = None
    """The column that rows are held out by."""


@dataclass(frozen=True, slots=True)
class Sides:
    """One row as tokens: one answer, or the chosen and the rejected one."""

    main: Tokens
    rejected: Tokens | None = None
    score: float = float("nan")
    is_text: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(side.input_ids) for side in self.both())

    def both(self) -> list[Tokens]:
        """The sides that there are."""
        return [self.main] if self.rejected is None else [self.main, self.rejected]


Outcome: TypeAlias = Sides | list[Sides] | Skipped | DataError
"""What became of a row: tokens, the pairs of a ranking, nothing for a good reason, or a fault."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row that was understood is not trained on, and what the rules say about such rows."""

    cause: str
    words: str
    policy: str


def settled(whole: Sides, rules: Rules) -> list[Sides] | Refusal:
    """What is trained of a row: all of it, a cut, or several sequences; or why nothing is."""
    limit = rules.max_length
    kept = whole
    if limit is not None and whole.longest > limit:
        if rules.on_long_row == "auto" and whole.is_text:
            return [Sides(piece, is_text=True) for piece in pieces_of(whole.main, limit)]
        if rules.on_long_row != "truncate":
            words = (
                f"{whole.longest:,} tokens, but max_length is {limit:,}; raise 'data.max_length' or "
                "set 'data.on_long_row' to truncate or drop"
            )
            return Refusal(TOO_LONG, words, rules.on_long_row)
        kept = Sides(whole.main.truncated(limit), whole.rejected and whole.rejected.truncated(limit), whole.score)
    if not rules.prompts and not all(side.trained for side in kept.both()):
        cut = " within max_length" if all(side.trained for side in whole.both()) else ""
        way = f" ({limit}); raise 'data.max_length', or" if cut else ";"
        words = f"nothing to train on: the row has no answer{cut}{way} set 'data.on_bad_row: drop' to leave it out"
        return Refusal(f"no trained token{cut}", words, rules.on_bad_row)
    return [kept]


def loses_its_end(before: Tokens, after: Tokens) -> bool:
    """Whether a cut takes the end of the last answer, so its stop token too."""
    return bool(before.answers) and before.answers[-1].end > len(after.input_ids)


@dataclass(slots=True)
class Intake:
    """Takes rows one by one and passes on what is kept."""

    rules: Rules
    checker: Checker
    write: Callable[[Row, int, Sides], None]
    """Called with each row that is kept, its number in the source from 0, and its tokens."""
    counts: Counts = field(default_factory=Counts)
    errors: list[str] = field(default_factory=list)
    shortest: tuple[int, str] | None = None
    """Tokens and place of the shortest row that is too long."""

    def take(self, row: Row | BadRow, outcome: Outcome) -> None:
        """One row. Raises DataError at the tenth faulty row when faults are errors."""
        self.counts.read += 1
        if isinstance(row, BadRow):
            self._refuse(row, row.cause, "unreadable", self.rules.on_bad_row)
        elif isinstance(outcome, DataError):
            self._refuse(row, str(outcome), "the row does not fit its format or template", self.rules.on_bad_row)
        elif isinstance(outcome, Skipped):
            self.counts.drop(outcome.cause)
        else:
            pairs = outcome if isinstance(outcome, list) else [outcome]
            self.counts.pieces += len(pairs) - 1
            for sides in pairs:
                self._measure(row, sides)

    def finish(self) -> None:
        """Raises DataError when rows were faulty, or when none is left."""
        self.raise_errors()
        if not self.counts.kept:
            causes = ", ".join(f"{number:,} {cause}" for cause, number in self.counts.dropped.items())
            places = "".join(f"\n{fault}" for fault in self.counts.faults[:3])
            rows = "the only row was" if self.counts.read == 1 else f"all {self.counts.read:,} rows were"
            raise DataError(f"{rows} dropped ({causes}); nothing is left to train on{self._too_long()}{places}")

    def raise_errors(self) -> None:
        """Raises DataError with the faults that are errors, when there are any."""
        if self.errors:
            raise DataError("\n".join(self.errors))

    def _too_long(self) -> str:
        if self.shortest is None:
            return ""
        tokens, place = self.shortest
        return (
            f": max_length is {self.rules.max_length}, and the shortest of what is longer has {tokens:,} tokens "
            f"({place}); raise 'data.max_length', or set 'data.on_long_row: truncate'"
        )

    def _measure(self, row: Row, whole: Sides) -> None:
        if whole.longest > self.counts.longest:
            self.counts.longest, self.counts.longest_row = whole.longest, row.origin
        kept = settled(whole, self.rules)
        if isinstance(kept, Refusal):
            if kept.cause == TOO_LONG:
                found = (whole.longest, row.origin)
                self.shortest = min(self.shortest or found, found)
            self._refuse(row, kept.words, kept.cause, kept.policy)
            return
        self.counts.pieces += len(kept) - 1
        if len(kept) == 1:
            self._count_cuts(whole, kept[0])
        for sides in kept:
            self._pass_on(row, sides)

    def _count_cuts(self, whole: Sides, kept: Sides) -> None:
        for before, after in zip(whole.both(), kept.both(), strict=True):
            self.counts.truncated += len(after.input_ids) < len(before.input_ids)
            self.counts.truncated_completions += after.trained < before.trained
            self.counts.truncated_stop_tokens += loses_its_end(before, after)
            self.counts.empty_completions += after.empty_answers
        self.counts.control_text += any(side.control_text for side in kept.both())
        self.counts.tools_as_text += any(side.tools_as_text for side in kept.both())

    def _pass_on(self, row: Row, sides: Sides) -> None:
        self.counts.kept += 1
        for side in sides.both():
            self.checker.take(side, row.origin)
        self.write(row, self.counts.read - 1, sides)

    def _refuse(self, row: Row | BadRow, fault: str, cause: str, policy: str) -> None:
        """Count a faulty row; where its kind is an error, keep its words, and end the intake at the tenth."""
        self.counts.drop(cause)
        line = f"{row.origin}: {fault}"
        if policy == "error":
            if self.errors and self.errors[-1].startswith(f"{row.origin}: "):  # of another pair of the same ranking
                return
            self.errors.append(line)
            if len(self.errors) == NAMED_FAULTS:
                raise DataError("\n".join([*self.errors, f"stopped after {NAMED_FAULTS} faulty rows"]))
        elif cause != TOO_LONG and len(self.counts.faults) < NAMED_FAULTS:
            self.counts.faults.append(line)
