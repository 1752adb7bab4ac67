"""The runs below a folder, one line each."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ftune.core.errors import FtuneError, RecipeError
from ftune.core.paths import shown
from ftune.report.curves import percent, short
from ftune.report.measures import duration_in_words
from ftune.report.run_folder import holds_run
from ftune.report.run_record import RunRecord, dig, finite, read_run
from ftune.report.terminal import printable

DEPTH = 4
"""Runs are looked for so many folders deep, and never inside of a run."""

METRICS = (("score", "score", short), ("accuracy", "accuracy", percent), ("token_accuracy", "token accuracy", percent))
"""Shown where `ftune eval` has not run: the first of these that was measured, on held-out rows if it was there."""


@dataclass(frozen=True)
class Listed:
    """What the list tells of a run. Numbers that are not known are None."""

    run: str
    state: str
    """As in ftune.json; `damaged` where the run cannot be read."""
    command: str = ""
    steps: int = 0
    loss: float | None = None
    """Of the last step."""
    validation_loss: float | None = None
    metric: str = ""
    metric_value: float | None = None
    seconds: float = 0.0
    updated: str = ""
    """When it last gave a sign, ISO 8601."""
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_runs(folder: Path) -> list[Listed]:
    """The runs in and below a folder, the newest first. Raises RecipeError where there is none."""
    if not folder.is_dir():
        raise RecipeError(f"{shown(folder)} is no folder; name one that holds runs: ftune runs FOLDER")
    found = [_listed(path) for path in _run_folders(folder, DEPTH)]
    if not found:
        raise RecipeError(f"no run of ftune in {shown(folder)}; name the folder that holds them: ftune runs FOLDER")
    return sorted(found, key=lambda run: (run.updated, run.run), reverse=True)


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if holds_run(folder):
        yield folder
        return
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # not ours to read
        return
    for path in below if depth else ():
        yield from _run_folders(path, depth - 1)


def _listed(path: Path) -> Listed:
    try:
        run = read_run(path)
    except FtuneError as error:
        return Listed(shown(path), "damaged", fault=str(error))
    metric, value = _metric(run)
    return Listed(
        run=shown(path),
        state=run.state,
        command=run.kind,
        steps=run.steps,
        loss=finite(run.last("step").get("loss")),
        validation_loss=finite(run.result_look.get("loss")),
        metric=metric,
        metric_value=value,
        seconds=round(run.seconds, 1),
        updated=run.last_moment.isoformat(timespec="seconds") if run.last_moment else "",
    )


def _metric(run: RunRecord) -> tuple[str, float | None]:
    """A metric and its value for the result: the first one of `ftune eval`, else one of METRICS."""
    evaluated = run.evaluation.get("metrics")
    for name, values in evaluated.items() if isinstance(evaluated, dict) else ():
        if (value := finite(dig(values, "after"))) is not None:
            return str(name), value
    for event in (run.result_look, run.last("step")):
        for field, words, _ in METRICS:
            if (value := finite(event.get(field))) is not None:
                return words, value
    return "", None


def table_of(runs: list[Listed], now: datetime | None = None) -> str:
    """The runs as lines of aligned columns, and below what is wrong with those that cannot be read."""
    now = now or datetime.now(UTC)
    head = ("run", "state", "command", "steps", "loss", "validation", "metric", "time", "last sign")
    lines = [head, *(_cells(run, now) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = {"steps", "loss", "validation"}
    table = [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, head, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*table, *(printable(f"damaged: {run.fault}") for run in runs if run.fault)])


def _cells(run: Listed, now: datetime) -> tuple[str, ...]:
    form = {words: number for _, words, number in METRICS}.get(run.metric, short)
    metric = f"{run.metric} {form(run.metric_value)}" if run.metric_value is not None else ""
    sign = f"{_ago(now - datetime.fromisoformat(run.updated))} ago" if run.updated else ""
    losses = ("" if loss is None else f"{loss:.4g}" for loss in (run.loss, run.validation_loss))
    time = duration_in_words(run.seconds) if run.seconds else ""
    cells = (run.run, run.state, run.command, f"{run.steps:,}" if run.steps else "", *losses, metric, time, sign)
    return tuple(map(printable, cells))


def _ago(gap: timedelta) -> str:
    seconds = max(gap.total_seconds(), 0.0)
    for size, letters in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:,.0f} {letters}"
    return f"{seconds:.0f} s"
