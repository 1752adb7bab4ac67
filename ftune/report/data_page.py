"""The page of `ftune data check`: one HTML file with its plots inside, which works offline."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ftune.report.curves import BLUE, GREY, ORANGE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_name("data_page.html.jinja")

WIDTH = 9.0
"""Of a chart, in inches."""

LENGTHS_LINES = 6
"""Height of the histogram, in bars of the other charts."""


def data_page(report: Mapping[str, Any], title: str) -> str:
    """The page as HTML. `report` is an audit's report as plain data; whatever it holds is escaped."""
    lengths, balances = report["lengths"], report["balances"]
    charts = {
        "rows": _chart(partial(_rows, report["parts"]), len(report["parts"]), "rows"),
        "lengths": _chart(partial(_lengths, lengths), LENGTHS_LINES, "lengths") if lengths else "",
        "balances": [
            _chart(partial(_balance, balance), len(balance["shares"]), f"balance{number}")
            for number, balance in enumerate(balances)
        ],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, report=report, charts=charts)


def _chart(draw: Callable[["Axes"], None], lines: int, name: str) -> Markup:
    """What `draw` draws, as inline SVG of a height for so many bars; equal input gives equal text.

    Its ids begin with `name`: all charts of a page share one space of ids.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    svg = io.StringIO()
    with rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts
        figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * lines), layout="constrained")
        draw(figure.subplots())
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = svg.getvalue()
    text = re.sub(r'\bid="', f'id="{name}-', text[text.index("<svg") :])
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\g<1>#{name}-", text)
    return Markup(text)  # noqa: S704 - matplotlib escapes every text that it writes


def _rows(parts: Sequence[Mapping[str, Any]], axes: "Axes") -> None:
    names, kept = [part["part"] for part in parts], [part["kept"] for part in parts]
    dropped = [part["read"] - part["kept"] for part in parts]
    axes.barh(names, kept, color=BLUE, label="kept")
    axes.barh(names, dropped, left=kept, color=ORANGE, label="dropped")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _lengths(lengths: Mapping[str, Any], axes: "Axes") -> None:
    bins = lengths["bins"]
    bars = axes.bar([f"{one['low']:,}" for one in bins], [one["count"] for one in bins], width=0.92, color=BLUE)
    axes.bar_label(bars, [f"{one['count']:,}" if one["count"] else "" for one in bins], color=GREY, fontsize=9)
    axes.set_axisbelow(True)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{lengths['unit']} a row, from")
    axes.set_ylabel("rows")


def _balance(balance: Mapping[str, Any], axes: "Axes") -> None:
    names, counts = zip(*balance["shares"], strict=True)
    bars = axes.barh(range(len(names)), counts, color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.bar_label(bars, [f" {count:,} ({count / sum(counts):.1%})" for count in counts], color=GREY, fontsize=9)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_title(balance["name"], loc="left")
