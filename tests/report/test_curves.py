"""The curves: what is drawn, what is left out, and the chart of the terminal dot by dot."""

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.report.curves import PANELS, _rows, draw_curves, panels_of, points_of, power, smoothed, terminal_chart
from ftune.report.events import Event


def run(steps: int) -> list[Event]:
    fields = {"loss": 2.0, "token_accuracy": 0.5, "learning_rate": 1e-4, "grad_norm": 1.5, "tokens_per_s": 900.0}
    return [{"kind": "step", "step": step, **fields} for step in range(1, steps + 1)]


def size_of(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize(
    "events",
    [[], [{"kind": "start"}], *([{"kind": "step", "step": 1, "loss": loss}] for loss in (None, math.nan, "x"))],
)
def test_nothing_to_draw_makes_no_file(tmp_path: Path, events: list[Event]) -> None:
    assert draw_curves(events, tmp_path / "curves.png", "title") is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 2, 39, 40, 300])
def test_any_number_of_steps_is_drawn(tmp_path: Path, steps: int) -> None:
    assert draw_curves(run(steps), tmp_path / "curves.png", "a_b $x_1$ 100%") is True
    assert size_of(tmp_path / "curves.png")[0] == 1600


def test_only_panels_with_data_take_space(tmp_path: Path) -> None:
    heights = []
    fields = [panel.field for panel in PANELS if panel.field in run(1)[0]]
    for drawn in (fields[:1], fields[:3], fields):
        kept = {"kind", "step", *drawn}
        draw_curves(
            [{key: event[key] for key in kept & event.keys()} for event in run(3)], tmp_path / "curves.png", "title"
        )
        heights.append(size_of(tmp_path / "curves.png")[1])
    assert heights == sorted(set(heights))


def test_the_rewards_of_ppo_have_panels_of_their_own_unless_the_score_is_the_only_one() -> None:
    step: Event = {"kind": "step", "step": 1, "score": 1.0, "kl": 2.0, "gold/judge": 0.5, "reward/model": 1.0}
    assert [panel.field for panel in panels_of([step])] == ["score", "kl", "gold/judge"]
    several = [panel.field for panel in panels_of([step | {"reward/length": 0.0}])]
    assert several == ["score", "kl", "reward/model", "reward/length", "gold/judge"]


def test_marks_gaps_and_validation_alone_are_drawn(tmp_path: Path) -> None:
    events = [*run(5), {"kind": "resumed", "step": 3}, {"kind": "skipped", "step": 4}, {"kind": "resumed", "step": 4}]
    events[2]["loss"] = None
    assert draw_curves(events, tmp_path / "curves.png", "title")
    assert draw_curves([{"kind": "eval", "step": 0, "loss": 3.0}], tmp_path / "curves.png", "title")
    assert points_of(events, "step", "loss") == ([1, 2, 4, 5], [2.0] * 4)


def test_matplotlib_is_imported_only_for_drawing() -> None:
    code = "import sys, ftune.report.curves as c; c.draw_curves([], None, ''); sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_lone_last_panel_gets_the_whole_width() -> None:
    assert _rows(["a"]) == [["a", "a"]]
    assert _rows(["a", "b"]) == [["a", "a"], ["b", "b"]]
    assert _rows(["a", "b", "c", "d"]) == [["a", "a"], ["b", "c"], ["d", "d"]]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (2e-4, "2e-4"), (1.5e-5, "1.5e-5"), (1.0, "1e0")])
def test_learning_rates_are_short(value: float, text: str) -> None:
    assert power(value) == text


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200))
def test_smoothing_is_the_mean_of_the_window(values: list[float]) -> None:
    half = max(len(values) // 40, 1)
    for index, smooth in enumerate(smoothed(values)):
        window = [value for place, value in enumerate(values) if abs(place - index) <= half]
        assert smooth == pytest.approx(sum(window) / len(window), abs=1e-6)


def dots_of(chart: str, margin: int, height: int, across: int) -> set[tuple[int, int]]:
    """The dots of a braille chart, read by the table of the Unicode standard."""
    numbers = {(0, 0): 1, (1, 0): 2, (2, 0): 3, (0, 1): 4, (1, 1): 5, (2, 1): 6, (3, 0): 7, (3, 1): 8}
    lines = [line[margin + 1 :].ljust(across // 2, "\u2800") for line in chart.split("\n")]
    cell = {(y, x): ord(lines[y // 4][x // 2]) - 0x2800 for y in range(height * 4) for x in range(across)}
    return {(y, x) for (y, x), bits in cell.items() if bits >> (numbers[y % 4, x % 2] - 1) & 1}


@given(st.lists(st.integers(-50, 50), min_size=20, max_size=20), st.integers(1, 6))
def test_each_value_is_a_dot_at_its_height(values: list[int], height: int) -> None:
    """Twenty values over twenty dots: no resampling, so each column holds exactly its value and the way to it."""
    low, high = min(values), max(values)
    labels = [f"{high:.4g}", f"{low:.4g}"] if height > 1 else [f"{low:.4g}"]
    margin = max(map(len, labels))
    chart = terminal_chart(values, width=margin + 1 + 10, height=height)
    rows = [round((high - value) / ((high - low) or 1) * (height * 4 - 1)) for value in values]
    expected = {(rows[0], 0)}
    for x in range(1, 20):
        top, bottom = sorted((rows[x - 1], rows[x]))
        expected |= {(y, x) for y in range(top, bottom + 1)}
    assert dots_of(chart, margin, height, 20) == expected


@given(st.lists(st.floats(width=32), max_size=300), st.integers(8, 80), st.integers(1, 10), st.booleans())
def test_a_chart_fits_whatever_the_values(values: list[float], width: int, height: int, braille: bool) -> None:
    chart = terminal_chart(values, width, height, braille=braille)
    if chart:
        lines = chart.split("\n")
        assert len(lines) == height
        assert max(map(len, lines)) <= max(width, 14)
        assert braille or chart.isascii()


def test_no_finite_value_gives_no_chart() -> None:
    assert terminal_chart([]) == ""
    assert terminal_chart([float("nan"), float("inf")]) == ""


def test_the_plain_chart() -> None:
    assert terminal_chart([4, 3, 2, 1], width=6, height=4, braille=False) == "4 **\n   **\n    **\n1    *"
