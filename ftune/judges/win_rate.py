"""Verdicts as numbers: how often the second answer wins, and each row's share in that."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftune.evals.scored import Scored
from ftune.judges.base import Verdict

_POINTS: dict[Verdict, float] = {"first": 0.0, "second": 1.0, "tie": 0.5, "inconsistent": 0.5}


@dataclass(frozen=True, slots=True)
class WinRate:
    """The second answers against the first ones; after against before, where pairs are made so."""

    wins: int
    """Pairs whose second answer is the better one."""
    ties: int
    """The inconsistent ones are among them."""
    losses: int
    missing: int
    """Pairs without a usable verdict, left out of the rate."""
    inconsistent: int
    """Ties because the judge said two different things in the two orders."""
    rate: float | None
    """(wins + ties / 2) / (wins + ties + losses), from 0 to 1; None where nothing was judged."""


def win_rate(verdicts: Sequence[Verdict]) -> WinRate:
    """The verdicts, counted."""
    counts = Counter(verdicts)
    wins, losses, ties = counts["second"], counts["first"], counts["tie"] + counts["inconsistent"]
    judged = wins + ties + losses
    rate = (wins + ties / 2) / judged if judged else None
    return WinRate(wins, ties, losses, counts[None], counts["inconsistent"], rate)


def scored(verdicts: Sequence[Verdict], side: Literal["first", "second"] = "second") -> Scored:
    """Each row's score for one side: 1 a win, 0.5 a tie, 0 a loss, None without a verdict; its mean is the win rate.

    Both sides' scores compared (`ftune.evals.intervals.compare`) have an interval around 0 where neither is better.
    """
    points = [_POINTS.get(verdict) for verdict in verdicts]
    return Scored([value if value is None or side == "second" else 1 - value for value in points])
