"""What did not go as it should have, in the order in which it happened."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from ftune.report.events import Event
from ftune.report.run_record import RunRecord

MOST = 40
"""Of a kind; the number of those that are not shown is told."""

LONGEST = 400

T = TypeVar("T")


class Incident(NamedTuple):
    """One thing that happened. `what` is short, `detail` is text of the run."""

    severity: str
    """error, warning or note."""
    when: str
    what: str
    detail: str


def incidents(run: RunRecord) -> list[Incident]:
    """How the run ended, skipped steps, failed saves, resumes, numbers that were not finite, warnings."""
    unit = "iteration" if run.iterates else "step"

    def at(event: Event) -> str:
        return f"{unit} {event['step']:,}" if type(event.get("step")) is int else ""

    def why(event: Event) -> str:
        rows = event.get("rows")
        places = f"; rows {', '.join(map(str, rows[:8]))}" if isinstance(rows, list) and rows else ""
        return f"{event.get('why', '')}{places}"

    found = _ending(run)
    found += _some(run.of_kind("skipped"), lambda event: Incident("warning", at(event), "step skipped", why(event)))
    found += _some(
        run.of_kind("save_failed"), lambda event: Incident("warning", at(event), "a save failed", why(event))
    )
    found += _some(
        (event for event in run.of_kind("step", "eval") if isinstance(event.get("non_finite"), dict)),
        lambda event: Incident("warning", at(event), "not a finite number", _pairs(event["non_finite"])),
    )
    found += _some(
        (event for event in run.of_kind("step") if event.get("stopped_early") is True),
        lambda event: Incident("note", at(event), "updates ended early", "the policy had moved far enough"),
    )
    found += _some(run.of_kind("resumed"), lambda event: Incident("note", at(event), "resumed", ""))
    return found + _some(run.warnings(), lambda text: Incident("warning", "", "said", text[:LONGEST]))


def _ending(run: RunRecord) -> list[Incident]:
    words = {
        "diverged": ("error", "the run diverged: too many steps in a row were not finite"),
        "failed": ("error", "the run failed; logs/ in its folder say why"),
        "stopped": ("note", "the run was stopped, and can be resumed"),
        "running": ("note", "the run has not ended: it is running, or was killed"),
        "unknown": ("warning", "how the run stands cannot be read"),
    }
    if run.state not in words:
        return []
    severity, what = words[run.state]
    return [Incident(severity, f"after {run.steps:,}" if run.steps else "", what, "")]


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())[:LONGEST]


def _some(items: Iterable[T], make: Callable[[T], Incident]) -> list[Incident]:
    everything = list(items)
    rest = len(everything) - MOST
    return [make(item) for item in everything[:MOST]] + (
        [Incident("note", "", f"{rest:,} more of these", "")] if rest > 0 else []
    )
