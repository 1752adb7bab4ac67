"""What `ftune eval` found, before and after: its `eval/eval.json` as rows of a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ftune.report.page.axis import decimal
from ftune.report.page.titles import LESS_TELLING, metric_title
from ftune.report.run_record import RunRecord, dig, finite

MOST_METRICS = 60

WAYS = {"higher": 1, "lower": -1, "neither": 0}


@dataclass(frozen=True)
class Row:
    """A metric in words; what is not known is empty."""

    metric: str
    telling: bool
    """Whether it may stand alone: not as a part of another value."""
    before: str
    after: str
    difference: str
    interval: str
    verdict: str
    """better, worse or unsure, where an interval or all rows tell."""
    better: str
    worse: str
    missing: str
    signature: str
    """How it was computed, as sacrebleu says it."""


@dataclass(frozen=True)
class Comparison:
    """The table of one run, and what it was made on."""

    rows: Sequence[Row]
    counted: int | None
    """Rows that both models answered."""
    source: str
    models: Sequence[str]
    """What `before` and `after` are, where the file says it."""


def comparison(run: RunRecord) -> Comparison | None:
    """The evaluation of a run; None where there is none with a number in it."""
    content = run.evaluation
    metrics = content.get("metrics")
    if not isinstance(metrics, dict):
        return None
    rows = [_row(name, values) for name, values in list(metrics.items())[:MOST_METRICS] if isinstance(values, dict)]
    rows = [row for row in rows if row.before or row.after]
    counted = finite(content.get("rows"))
    models = [str(name) for key in ("before", "after") if (name := dig(content, "models", key))]
    source = str(content.get("source") or content.get("file") or "")
    return Comparison(rows, int(counted) if counted is not None else None, source, models) if rows else None


def _row(name: str, values: dict[str, Any]) -> Row:
    before, after = finite(values.get("before")), finite(values.get("after"))
    difference, low, high = (finite(values.get(key)) for key in ("difference", "low", "high"))
    if difference is None and before is not None and after is not None:
        difference = after - before
    number = _number_of(values, [value for value in (before, after) if value is not None])
    ends = [_signed(end, number) for end in (low, high) if end is not None]
    return Row(
        metric=metric_title(name),
        telling=not name.endswith(LESS_TELLING),
        before=_plain(before, number),
        after=_plain(after, number),
        difference=_signed(difference, number),
        interval=" to ".join(ends) if len(ends) == 2 else "",
        verdict=_verdict(_good_way(values), low, high) or _of_all_rows(values),
        better=_count(values.get("better")),
        worse=_count(values.get("worse")),
        missing=_count(values.get("missing")),
        signature=str(values.get("signature") or ""),
    )


def _number_of(values: dict[str, Any], numbers: Sequence[float]) -> Callable[[float], str]:
    """How a metric is written: a share in percent, anything else with as many decimals as its size wants."""
    if dig(values, "kind", "scale") == "share":
        return lambda value: f"{100 * value:.1f}%"
    most = max(map(abs, numbers), default=0.0)
    apart = 0.001 if most < 10 else 0.01 if most < 1000 else 1.0
    return lambda value: decimal(value, apart)


def _good_way(values: dict[str, Any]) -> int:
    """1 where more is better, -1 where less is, 0 where neither way is good, as of a length."""
    named = dig(values, "kind", "better")
    if named in WAYS:
        return WAYS[named]
    higher = values.get("higher_is_better", True)
    return 0 if higher is None else 1 if higher else -1


def _verdict(way: int, low: float | None, high: float | None) -> str:
    if low is None or high is None or not way:
        return ""
    return "unsure" if low <= 0 <= high else "better" if low * way > 0 else "worse"


def _of_all_rows(values: dict[str, Any]) -> str:
    """Where all rows have changed by the same, no interval is needed to tell."""
    rows, better, worse = (finite(values.get(key)) for key in ("rows", "better", "worse"))
    if rows is None or rows < 2 or rows not in (better, worse):
        return ""
    return "better" if better == rows else "worse"


def _plain(value: float | None, number: Callable[[float], str]) -> str:
    return "" if value is None else number(value).replace("-", "−")


def _signed(value: float | None, number: Callable[[float], str]) -> str:
    if value is None:
        return ""
    text = number(value)
    return f"+{text}" if value > 0 else text.replace("-", "−")


def _count(value: object) -> str:
    """A number of rows; a list of rows counts as its length."""
    number = len(value) if isinstance(value, list) else finite(value)
    return "" if number is None else f"{number:,}"
