"""Evaluations of several runs beside each other: what each reached, what that is over its base, which is the best."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftune.core.errors import RecipeError
from ftune.core.paths import shown
from ftune.core.several import several
from ftune.report.curves import short
from ftune.report.run_folder import read_state
from ftune.report.run_record import dig, finite

FILES = ("eval/eval.json", "eval.json")
"""Where an evaluation lies in the folder of a run, and in one that it was told to write to."""

WIDTH = 80
LONGEST_NAME = 24
BEST = "*"


@dataclass(frozen=True)
class Value:
    """A metric of one run. Numbers that are not known are None."""

    after: float | None
    difference: float | None
    """To what it was compared with, its base by default."""
    low: float | None
    """Lower end of the 95 % interval of the difference."""
    high: float | None
    rows: int | None
    """Rows behind it."""
    better: str
    """Which way is good: higher, lower or neither."""
    scale: str
    """share, points or number."""


@dataclass(frozen=True)
class EvaluatedRun:
    """What a run's evaluation says; `fault` says why there is none."""

    run: str
    rows: int | None = None
    source: str = ""
    models: dict[str, str] = field(default_factory=dict)
    """What `before` and `after` are."""
    metrics: dict[str, Value] = field(default_factory=dict)
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"run": self.run, "fault": self.fault} if self.fault else asdict(self)


@dataclass(frozen=True)
class RunComparison:
    """Evaluations beside each other, in the order in which their runs were named."""

    runs: Sequence[EvaluatedRun]

    @property
    def evaluated(self) -> list[EvaluatedRun]:
        """Those that have an evaluation."""
        return [run for run in self.runs if not run.fault]

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, in the order in which they first come."""
        return list(dict.fromkeys(name for run in self.runs for name in run.metrics))

    @property
    def same_rows(self) -> bool:
        """Whether all were evaluated on the same rows, as far as their source and number tell."""
        return len({(_place(run.source), run.rows) for run in self.evaluated}) == 1

    def best(self, metric: str) -> list[str]:
        """The runs with the best value; none where neither way is good, where rows differ, and of a single run."""
        found = {run.run: run.metrics[metric] for run in self.evaluated if metric in run.metrics}
        values = {run: value.after for run, value in found.items() if value.after is not None}
        ways = {value.better for value in found.values()}
        if len(values) < 2 or not self.same_rows or ways not in ({"higher"}, {"lower"}):
            return []
        top = (max if ways == {"higher"} else min)(values.values())
        return [run for run, value in values.items() if value == top]

    def warnings(self) -> list[str]:
        """Why numbers may not be comparable."""
        found = []
        if not self.same_rows:
            listed = "; ".join(f"{run.run}: {_rows_in_words(run)}" for run in self.evaluated)
            found.append(f"evaluated on different rows, so no value is marked as the best ({listed})")
        bases = dict.fromkeys(base for run in self.evaluated if (base := run.models.get("before")))
        if len(bases) > 1:
            found.append(f"differences are to different models: {', '.join(bases)}")
        for name in self.metrics if self.same_rows else ():
            counts = [value.rows for run in self.evaluated if (value := run.metrics.get(name)) and value.rows]
            if len(set(counts)) > 1:
                found.append(f"{_words(name)}: of {min(counts):,} rows in one run and {max(counts):,} in another")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = {name: self.best(name) for name in self.metrics}
        return {"runs": [run.as_dict() for run in self.runs], "best": best, "warnings": self.warnings()}


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """Read the evaluations of runs; a folder twice counts once. Raises RecipeError where none of them has one."""
    runs = [_read(folder) for folder in dict.fromkeys(folders)]
    if all(run.fault for run in runs):
        faults = "".join(f"\n{run.run}: {run.fault}" for run in runs)
        raise RecipeError(f"no evaluation to compare; make one of each run: ftune eval RUN{faults}")
    return RunComparison(runs)


def comparison_table(compared: RunComparison, width: int = WIDTH) -> str:
    """One line a run and one column a metric, in blocks of as many metrics as `width` columns hold."""
    runs = compared.evaluated
    names = ["run", *(_cut(run.run, LONGEST_NAME) for run in runs)]
    margin = max(map(len, names))
    columns = [_column(name, compared, width - margin - 2) for name in compared.metrics]
    blocks = [_block([names, *block]) for block in _in_blocks(columns, width - margin)]
    feet = _legend(compared)
    feet += [f"not evaluated: {run.run} ({run.fault})" for run in compared.runs if run.fault]
    feet += [f"warning: {warning}" for warning in compared.warnings()]
    return "\n\n".join([*blocks, "\n".join(feet)]).rstrip()


def _read(folder: Path) -> EvaluatedRun:
    name = _plain(shown(folder))
    file = next((folder / place for place in FILES if (folder / place).is_file()), None)
    if file is None:
        known = folder.is_dir() and (read_state(folder) or any(folder.glob("adapter*.json")))
        return EvaluatedRun(name, fault=f"no evaluation yet: ftune eval {name}" if known else "no run of ftune")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return EvaluatedRun(name, fault=f"{file.name} cannot be read: {_plain(str(error))}")
    metrics = dig(content, "metrics")
    values = {_plain(key): _value(value) for key, value in metrics.items()} if isinstance(metrics, dict) else {}
    if not any(value.after is not None for value in values.values()):
        return EvaluatedRun(name, fault=f"{file.name} holds no number; evaluate it again: ftune eval {name}")
    models = dig(content, "models")
    return EvaluatedRun(
        name,
        _whole(content.get("rows")),
        _plain(str(content.get("source") or "")),
        {key: _plain(str(model)) for key, model in models.items()} if isinstance(models, dict) else {},
        values,
    )


def _value(content: object) -> Value:
    after, difference, low, high = (finite(dig(content, key)) for key in ("after", "difference", "low", "high"))
    better, scale = dig(content, "kind", "better"), dig(content, "kind", "scale")
    return Value(
        after,
        difference,
        low,
        high,
        _whole(dig(content, "rows")),
        better if better in ("higher", "lower") else "neither",
        scale if scale in ("share", "points") else "number",
    )


def _whole(value: object) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _column(name: str, compared: RunComparison, width: int) -> list[str]:
    """The head of a metric and the cell of each run: value, mark of the best, difference and its interval."""
    best = compared.best(name)
    found = [(run.metrics.get(name), run.run in best) for run in compared.evaluated]
    parts = [
        [f"{_number(value.after, value)}{BEST if top else ' '}" if value else "- " for value, top in found],
        [_change(value.difference, value, sign="+") if value else "" for value, _ in found],
        [_interval(value) if value else "" for value, _ in found],
    ]
    widths = [max(map(len, part)) for part in parts]
    rows = zip(*parts, strict=True)
    return [_cut(_words(name), width), *(" ".join(map(str.rjust, row, widths)).rstrip() for row in rows)]


def _interval(value: Value) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"[{_change(value.low, value)}, {_change(value.high, value)}]"


def _number(number: float | None, value: Value) -> str:
    if number is None:
        return "-"
    return {"share": f"{number:.1%}", "points": f"{number:.1f}"}.get(value.scale) or short(number)


def _change(number: float | None, value: Value, *, sign: str = "") -> str:
    """A difference; of shares in percentage points, without the sign of percent."""
    if number is None:
        return ""
    if value.scale == "number":
        return f"{sign if number > 0 else ''}{short(number)}"
    return f"{100 * number if value.scale == 'share' else number:{sign}.1f}"


def _in_blocks(columns: Sequence[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Columns in their order, as many in a block as fit beside each other."""
    block: list[list[str]] = []
    used = 0
    for column in columns:
        needed = 2 + max(map(len, column))
        if block and used + needed > width:
            yield block
            block, used = [], 0
        block.append(column)
        used += needed
    if block:
        yield block


def _block(columns: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _legend(compared: RunComparison) -> list[str]:
    every = [value for run in compared.evaluated for value in run.metrics.values()]
    found = [f"{BEST} the best value"] if any(map(compared.best, compared.metrics)) else []
    if any(value.difference is not None for value in every):
        found.append("beside it the difference to the model before [95 % interval]")
    return ["; ".join(found)] if found else []


def _rows_in_words(run: EvaluatedRun) -> str:
    count = "an unknown number of rows" if run.rows is None else several(run.rows, "row")
    return f"{count} of {run.source or 'an unknown source'}"


def _place(source: str) -> str:
    """The same for two ways to write the path of one file."""
    return os.path.realpath(source) if Path(source).exists() else source


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(text: str) -> str:
    """Without control codes for the terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _cut(text: str, width: int) -> str:
    """The end of a text that is too long: that is where the paths of runs differ."""
    return text if len(text) <= width else ".." + text[2 - width :]
