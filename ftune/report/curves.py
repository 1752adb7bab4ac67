"""The curves of a run: `curves.png` for the report, a braille chart for the terminal."""

import io
import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftune.core.checkpoints import write_atomically
from ftune.report.events import Event
from ftune.report.run_record import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, PURPLE, INK, GREY = "#0072B2", "#D55E00", "#882255", "#1F2937", "#6B7280"
"""The first three stay apart for colour-blind readers (palettes of Okabe and Ito, and of Tol)."""

STYLE: Any = {
    "axes.edgecolor": "#D1D5DB",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # where it comes to lie; to find that out took two fifths of the drawing
    "axes.xmargin": 0.02,
    "font.size": 11,
    "grid.color": "#ECEEF1",
    "legend.edgecolor": "white",
    "legend.fancybox": False,
    "legend.fontsize": 10,
    "legend.framealpha": 0.9,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

SMOOTHED_FROM = 40
"""A noisy curve of at least so many points steps back behind its moving average."""


def short(value: float) -> str:
    """Three digits, more where there are more before the point."""
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """0.421 as 42.1%."""
    return f"{100 * value:.3g}%"


def power(value: float) -> str:
    """2e-4 rather than 0.0002 or 2.000e-04."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


class Panel(NamedTuple):
    """One chart: a field of the `step` events, and of the `eval` events that have it."""

    field: str
    title: str
    number: Callable[[float], str] = short
    noisy: bool = True


PANELS = [
    Panel("loss", "Loss"),
    Panel("score", "Score"),
    Panel("kl", "KL, nats a completion"),
    Panel("token_accuracy", "Token accuracy", percent),
    Panel("accuracy", "Accuracy", percent),
    Panel("margin", "Margin"),
    Panel("entropy", "Entropy, nats a token"),
    Panel("length", "Tokens a completion"),
    Panel("stopped", "Ended by themselves", percent),
    Panel("clip_fraction", "Clipped tokens", percent),
    Panel("explained_variance", "Explained variance of the value"),
    Panel("learning_rate", "Learning rate", power, noisy=False),
    Panel("grad_norm", "Gradient norm"),
    Panel("tokens_per_s", "Tokens per second"),
]


PARTS = {"reward/": "Reward", "gold/": "Only logged"}
"""Beginnings of fields that a run names itself: its reward sources."""


def panels_of(events: list[Event]) -> list[Panel]:
    """The charts that there is something to draw for. The one reward of a run is its score, so it has no own chart."""
    fields = dict.fromkeys(field for event in events if event["kind"] in ("step", "eval") for field in event)
    own = [
        Panel(field, f"{words}: {field.removeprefix(beginning)}")
        for beginning, words in PARTS.items()
        if beginning != "reward/" or sum(field.startswith(beginning) for field in fields) > 1
        for field in fields
        if field.startswith(beginning)
    ]
    place = [panel.field for panel in PANELS].index("kl") + 1
    known = [*PANELS[:place], *own, *PANELS[place:]]
    return [panel for panel in known if any(points_of(events, kind, panel.field)[0] for kind in ("step", "eval"))]


def draw_curves(events: list[Event], png: Path, title: str) -> bool:
    """Draw the curves of a run, from `read_events`, into `png`; False and no file when there is nothing to draw.

    Each panel shows one field over the steps, and only panels with data are drawn. Skipped steps and resumes are
    marked.
    """
    panels = panels_of(events)
    if not panels:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = _rows([panel.field for panel in panels])
    heights = [1.4] + [1.0] * (len(rows) - 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.6 + 2.3 * sum(heights)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
        charts = figure.subplot_mosaic(rows, height_ratios=heights, sharex=True)  # type: ignore[arg-type]
        for panel in panels:
            _draw(charts[panel.field], panel, events)
        for field in rows[-1]:
            charts[field].set_xlabel("iteration" if "kl" in charts else "step")
        first = charts[rows[0][0]]
        first.tick_params(labelbottom=True)
        first.legend(loc="best", ncols=4)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=160)
    write_atomically(png, image.getvalue())
    return True


def terminal_chart(values: Sequence[float], width: int = 60, height: int = 6, *, braille: bool = True) -> str:
    """A line chart of `values` in `height` lines of at most `width` columns, its range written at the left.

    A braille character holds 2 x 4 points; `braille=False` draws with asterisks. Empty without a finite value.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"][-height:]
    margin = max(map(len, labels))
    dots = BRAILLE_DOTS if braille else [[1]]
    tall, wide = len(dots), len(dots[0])
    curve = [min(max(value, low), high) for value in _resample(finite, max(width - margin - 1, 1) * wide)]
    depths = [round((high - value) / ((high - low) or 1) * (height * tall - 1)) for value in curve]
    cells = [[0] * (len(curve) // wide) for _ in range(height)]
    for x, (before, here) in enumerate(pairwise([depths[0], *depths])):
        for y in range(min(before, here), max(before, here) + 1):
            cells[y // tall][x // wide] |= dots[y % tall][x % wide]
    signs = [chr(0x2800 + cell) for cell in range(256)] if braille else [" ", "*"]
    lines = (
        f"{label:>{margin}} " + "".join(signs[cell] for cell in row) for label, row in zip(labels, cells, strict=True)
    )
    return "\n".join(line.rstrip(" \u2800") for line in lines)


BRAILLE_DOTS = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]]
"""The bit of each dot of a braille character, by row and column; the characters begin at U+2800."""


def _resample(values: Sequence[float], count: int) -> list[float]:
    """`count` values along the same curve: means where it has more points, straight lines where it has fewer."""
    if len(values) > count:
        edges = [index * len(values) // count for index in range(count + 1)]
        return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    places = [index * (len(values) - 1) / max(count - 1, 1) for index in range(count)]
    following = [*values[1:], values[-1]]
    return [values[int(at)] * (1 - at % 1) + following[int(at)] * (at % 1) for at in places]


def _rows(fields: list[str]) -> list[list[str]]:
    """The first chart over the whole width, the others in pairs; a lone last one gets the whole width too."""
    pairs = [fields[index : index + 2] for index in range(1, len(fields), 2)]
    return [[fields[0]] * 2, *(pair if len(pair) == 2 else pair * 2 for pair in pairs)]


def _draw(axes: "Axes", panel: Panel, events: list[Event]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    latest = {}
    steps, values = points_of(events, "step", panel.field)
    if values:
        smooth = smoothed(values) if panel.noisy and len(values) >= SMOOTHED_FROM else values
        if smooth is not values:
            axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth, color=BLUE, linewidth=2, marker="o" if len(values) == 1 else "", label="train")
        latest["train"] = panel.number(smooth[-1])
    steps, values = points_of(events, "eval", panel.field)
    if values:
        axes.plot(steps, values, color=ORANGE, linewidth=2, marker="o", markersize=4.5, label="validation")
        latest["validation"] = panel.number(values[-1])
    _mark(axes, events)
    caption = "   ".join(f"{name} {number}" if len(latest) > 1 else number for name, number in latest.items())
    axes.set_title(panel.title, loc="left")
    axes.set_title(caption, loc="right", color=GREY, fontsize=10, fontweight="normal")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.number(value)))


def _mark(axes: "Axes", events: list[Event]) -> None:
    """A dotted line where the run was resumed, and a cross on the axis for each skipped step."""
    for number, event in enumerate(event for event in events if event["kind"] == "resumed"):
        axes.axvline(event["step"] + 0.5, color=GREY, linestyle=":", linewidth=1.2, label="" if number else "resumed")
    if steps := [event["step"] for event in events if event["kind"] == "skipped"]:
        on_axis = axes.get_xaxis_transform()
        marks = axes.plot(steps, [0.0] * len(steps), "x", color=PURPLE, transform=on_axis, clip_on=False)
        marks[0].set(label="skipped step", markersize=7, markeredgewidth=2)


def points_of(events: list[Event], kind: str, field: str) -> tuple[list[int], list[float]]:
    """Steps and values of a field, without those that were not finite."""
    found = [event for event in events if event["kind"] == kind and finite(event.get(field)) is not None]
    return [event["step"] for event in found], [event[field] for event in found]


def smoothed(values: list[float]) -> list[float]:
    """The mean over a window of a twentieth of the curve around each point."""
    half = max(len(values) // 40, 1)
    sums = [0.0, *accumulate(values)]
    windows = ((max(index - half, 0), min(index + half + 1, len(values))) for index in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]
