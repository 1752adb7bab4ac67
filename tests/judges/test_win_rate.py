"""Verdicts as numbers, counted by hand."""

import pytest

from ftune.evals.intervals import compare
from ftune.judges.base import Verdict
from ftune.judges.win_rate import WinRate, scored, win_rate

VERDICTS: list[Verdict] = ["second", "first", "tie", None, "second", "inconsistent", "second"]


def test_counts_by_hand() -> None:
    assert win_rate(VERDICTS) == WinRate(wins=3, ties=2, losses=1, missing=1, inconsistent=1, rate=4 / 6)


def test_rows_have_the_rate_as_their_mean_from_either_side() -> None:
    after, before = scored(VERDICTS), scored(VERDICTS, side="first")
    assert after.rows == [1, 0, 0.5, None, 1, 0.5, 1]
    assert before.rows == [0, 1, 0.5, None, 0, 0.5, 0]
    assert after.value == pytest.approx(4 / 6)
    change = compare({"win rate": before}, {"win rate": after})["win rate"]
    assert change.difference == pytest.approx(2 / 6)
    assert (change.rows, change.missing, change.better, change.worse) == (6, 1, 3, 1)


@pytest.mark.parametrize("verdicts", [[], [None, None]])
def test_without_verdicts_there_is_no_rate(verdicts: list[Verdict]) -> None:
    assert win_rate(verdicts) == WinRate(0, 0, 0, len(verdicts), 0, None)
    assert scored(verdicts).value is None
