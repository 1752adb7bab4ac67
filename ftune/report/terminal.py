"""The curves of a run as text."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from ftune.core.errors import RecipeError
from ftune.report.curves import Panel, panels_of, terminal_chart
from ftune.report.run_record import RunRecord, finite

NARROWEST_PAIR = 100
"""A terminal of at least so many columns shows two charts beside each other."""

GAP = 4


def draw_run(run: RunRecord, fields: Sequence[str], width: int, *, braille: bool) -> str:
    """The charts of some fields, or of all that there is something to draw for. Raises RecipeError."""
    panels = _wanted(run, fields)
    across = 2 if width >= NARROWEST_PAIR and len(panels) > 1 else 1
    each = (width - GAP * (across - 1)) // across
    charts = [_chart(panel, run, each, braille=braille) for panel in panels]
    rows = (charts[start : start + across] for start in range(0, len(charts), across))
    head = f"{printable(run.name)}: {printable(run.state)}, {'iteration' if run.iterates else 'step'} {run.steps:,}"
    return "\n\n".join([head, *(_beside(row, each) for row in rows)])


def _wanted(run: RunRecord, fields: Sequence[str]) -> list[Panel]:
    known = {panel.field: panel for panel in panels_of(run.of_kind("step", "eval"))}
    numbers = dict.fromkeys(
        field for event in run.of_kind("step", "eval") for field, value in event.items() if finite(value) is not None
    )
    if not numbers:
        raise RecipeError(f"{run.name} has no step yet, so there is nothing to draw")
    for field in fields:
        if field not in numbers:
            close = get_close_matches(field, numbers, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(numbers)}"
            raise RecipeError(f"'{field}' is no field of the steps of {run.name}; {hint}")
    return [known.get(field) or Panel(field, field) for field in fields] or list(known.values())


def _chart(panel: Panel, run: RunRecord, width: int, *, braille: bool) -> list[str]:
    """Title, chart, range of steps, and what was measured on held-out rows; of equal height for all panels."""
    drawn, looks = (run.series(kind, panel.field) for kind in ("step", "eval"))
    steps, values = drawn if drawn.values else looks
    lines = terminal_chart(values, width, braille=braille).split("\n")
    label = re.match(r" *\S+ ", lines[0])
    margin = label.end() if label else 0
    first, last = f"{steps[0]:,}", f"{steps[-1]:,}"
    feet = f"{'':{margin}}{first}{last:>{max(width - margin - len(first), 0)}}"
    held_out = ""
    if drawn.values and looks.values:
        path = [panel.number(value) for value in looks.values]
        held_out = f"{'':{margin}}validation " + (f"{path[0]} to {path[-1]}" if len(path) > 1 else path[0])
    return [f"{printable(panel.title)}  {panel.number(values[-1])}", *lines, feet, held_out]


def _beside(charts: Sequence[Sequence[str]], width: int) -> str:
    lines = ((" " * GAP).join(f"{line[:width]:<{width}}" for line in row).rstrip() for row in zip(*charts, strict=True))
    return "\n".join(lines).rstrip()


def printable(text: str) -> str:
    """A text of a run in one line without control codes, which a terminal would obey."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
