"""How far a piece of work is: what is said, and when nothing is."""

import pytest

from ftune.core import ticking as module
from ftune.core.say import Say
from ftune.core.ticking import Steps, counted, gigabytes, ticking


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_comes_every_ten_seconds_and_none_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ticking(Say(), "rows", 100) as advance:
        for second in range(1, 26):
            clock[0] = float(second)
            advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  rows: 40 of 100, 4 a second, 15 s left", "  rows: 80 of 100, 4 a second, 5 s left"]


def test_short_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ticking(Say(), "rows", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_numbers_and_bytes() -> None:
    assert [counted(value) for value in (0.25, 7.0, 12.7, 12345)] == ["0.2", "7", "13", "12,345"]
    assert gigabytes(16_060_000_000) == "16.06 GB"


def test_totals_become_steps() -> None:
    seen: list[int] = []
    steps = Steps(seen.append)
    for done in (2, 2, 7):
        steps(done)
    assert seen == [2, 0, 5]
