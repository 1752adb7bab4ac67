"""One chart: where its lines, ticks and marks go, in the units of an SVG; `chart.svg.jinja` draws it.

A chart is as wide as a phone, so that its texts are as large there as on a desk, where several stand in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ftune.report.curves import SMOOTHED_FROM, Panel, smoothed
from ftune.report.page.axis import tick_label, ticks
from ftune.report.page.thinning import Thinned, thinned
from ftune.report.run_record import RunRecord, Series

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 352, 10, 186
"""Where the axes are."""

MOST_MARKS = 60
"""Skipped steps and resumes beyond are not marked in the charts; their table tells all."""

MOST_DOTS = 40
"""Each look at held-out rows is a dot, up to so many."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve. `color` numbers the run, or training and validation when there is one run."""

    style: str
    """`raw` (every value, behind its average), `band` (lowest to highest), `line`, `dashed` or `dots`."""
    color: int
    path: str
    """As in the `d` of an SVG path."""


@dataclass(frozen=True)
class Chart:
    """What is drawn of one field, and what it says in words."""

    title: str
    unit: str
    """Of the x axis: step or iteration."""
    summary: str
    """For those who do not see it."""
    latest: Sequence[tuple[str, str, int]]
    """Last values: of what, the number, its color."""
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    skipped: Sequence[float]
    resumed: Sequence[float]
    validated: bool
    """Whether one of its curves is of held-out rows."""

    @property
    def styles(self) -> list[str]:
        """The styles of its lines."""
        return [line.style for line in self.lines]


@dataclass(frozen=True)
class _Curve:
    words: str
    color: int
    validation: bool
    values: Thinned
    smooth: Thinned | None
    """Its moving average, where it is noisy."""
    series: Series


def chart(panel: Panel, runs: Sequence[RunRecord], points: int, *, from_zero: bool = False) -> Chart | None:
    """The chart of a field over the steps of some runs, each curve of at most `points` points; None without a value."""
    curves = [
        curve
        for number, run in enumerate(runs)
        for validation in (False, True)
        if (curve := _curve(panel, run, validation, number if len(runs) > 1 else int(validation), len(runs), points))
    ]
    if not curves:
        return None
    several = len(runs) > 1
    shown = [curve.smooth if several and curve.smooth else curve.values for curve in curves]
    x = _Axis.over([step for curve in shown for step in curve.steps], LEFT, RIGHT, margin=0)
    heights = [height for curve in shown for height in (*curve.lows, *curve.highs)]
    y = _Axis.over([*heights, *([0.0] if from_zero else [])], BOTTOM, TOP, margin=0.05)
    y_ticks, x_ticks = ticks(y.low, y.high, 6), ticks(x.low, x.high, 7, whole=True)
    apart = y_ticks[1] - y_ticks[0] if len(y_ticks) > 1 else y.high - y.low
    marked = runs[0] if not several else None
    unit = "iteration" if any(run.iterates for run in runs) else "step"
    return Chart(
        title=panel.title,
        unit=unit,
        summary=" ".join(_in_words(curve, panel, unit) for curve in curves),
        latest=[(curve.words, panel.number(_end(curve)), curve.color) for curve in curves],
        lines=[line for curve in curves for line in _lines(curve, x, y, several=several)],
        x_ticks=[(x.place(tick), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(y.place(tick), tick_label(tick, apart, panel.number)) for tick in y_ticks],
        skipped=_marks(marked, "skipped", x),
        resumed=_marks(marked, "resumed", x),
        validated=any(curve.validation for curve in curves),
    )


def _curve(panel: Panel, run: RunRecord, validation: bool, color: int, runs: int, points: int) -> _Curve | None:
    series = run.series("eval" if validation else "step", panel.field)
    if not series.values:
        return None
    noisy = panel.noisy and not validation and len(series.values) >= SMOOTHED_FROM
    smooth = thinned(Series(series.steps, smoothed(series.values)), points) if noisy else None
    kind = "validation" if validation else "training"
    words = f"{run.name}, {kind}" if runs > 1 else kind
    return _Curve(words, color, validation, thinned(series, points), smooth, series)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, margin: float) -> "_Axis":
        """An axis that holds all values, with a margin as a share of their range; equal values get a range too."""
        low, high = min(values), max(values)
        flat = high - low <= 1e-9 * max(abs(high), abs(low))
        pad = (abs(high) / 10 or 1.0) if flat else (high - low) * margin
        floor = 0.0 if low >= 0 else -float("inf")  # what is never negative needs no room below zero
        return cls(max(low - pad, floor), high + pad, start, end)

    def place(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def _lines(curve: _Curve, x: _Axis, y: _Axis, *, several: bool) -> list[Line]:
    """The parts of a curve, from the back to the front. Beside other runs, a noisy curve is its average alone."""
    front = curve.smooth or curve.values
    at = [x.place(step) for step in front.steps]
    means = list(zip(at, map(y.place, front.means), strict=True))
    found = []
    if curve.smooth and not several and curve.values.group == 1:
        found.append(Line("raw", curve.color, _path(list(zip(at, map(y.place, curve.values.means), strict=True)))))
    elif curve.values.group > 1 and not several:
        highs = list(zip(at, map(y.place, curve.values.highs), strict=True))
        lows = list(zip(at, map(y.place, curve.values.lows), strict=True))
        found.append(Line("band", curve.color, _path([*highs, *reversed(lows)]) + "Z"))
    found.append(Line("dashed" if several and curve.validation else "line", curve.color, _path(means)))
    if len(means) == 1 or (curve.validation and len(means) <= MOST_DOTS):
        found.append(Line("dots", curve.color, "".join(f"M{left:g},{top:g}h0" for left, top in means)))
    return found


def _path(points: Sequence[Point]) -> str:
    """Through the points, without those that change nothing at this size."""
    kept = [points[0], *(here for before, here in pairwise(points) if here != before)]
    return "M" + "L".join(f"{left:g},{top:g}" for left, top in kept)


def _marks(run: RunRecord | None, kind: str, x: _Axis) -> list[float]:
    steps = {event["step"] for event in run.of_kind(kind)} if run else set()
    return sorted(x.place(step) for step in steps if x.low <= step <= x.high)[:MOST_MARKS]


def _end(curve: _Curve) -> float:
    return (curve.smooth or curve.values).means[-1]


def _in_words(curve: _Curve, panel: Panel, unit: str) -> str:
    steps, values = curve.series
    lowest, highest = min(values), max(values)
    number = panel.number
    if len(values) == 1:
        return f"{curve.words}: {number(values[0])} at {unit} {steps[0]:,}."
    return (
        f"{curve.words}: {number(values[0])} at {unit} {steps[0]:,}, {number(values[-1])} at {unit} {steps[-1]:,}; "
        f"lowest {number(lowest)} at {unit} {steps[values.index(lowest)]:,}, "
        f"highest {number(highest)} at {unit} {steps[values.index(highest)]:,}."
    )
