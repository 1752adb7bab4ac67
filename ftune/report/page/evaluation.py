"""What `ftune eval` found, before and after: its `eval/eval.json` as rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftune.report.page.axis import decimal
from ftune.report.run_record import RunRecord, dig, finite

MOST_METRICS = 60

WAYS = {"higher": 1, "lower": -1, "neither": 0}


@dataclass(frozen=True)
class Row:
    """A metric in words; what is not known is empty."""

    metric: str
    before: str
    after: str
    difference: str
    interval: str
    verdict: str
    """better, worse or unsure, where there is an interval."""
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
    numbers = [abs(value) for value in (before, after) if value is not None]
    apart = 0.001 if max(numbers, default=0) < 10 else 0.01 if max(numbers) < 1000 else 1.0
    return Row(
        metric=(words := name.replace("_", " "))[:1].upper() + words[1:],
        before=_plain(before, apart),
        after=_plain(after, apart),
        difference=_signed(difference, apart),
        interval=f"{_signed(low, apart)} to {_signed(high, apart)}" if low is not None and high is not None else "",
        verdict=_verdict(_good_way(values), low, high),
        better=_count(values.get("better")),
        worse=_count(values.get("worse")),
        missing=_count(values.get("missing")),
        signature=str(values.get("signature") or ""),
    )


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


def _plain(value: float | None, apart: float) -> str:
    return "" if value is None else decimal(value, apart).replace("-", "−")


def _signed(value: float | None, apart: float) -> str:
    if value is None:
        return ""
    text = decimal(value, apart)
    return f"+{text}" if value > 0 else text.replace("-", "−")


def _count(value: object) -> str:
    """A number of rows; a list of rows counts as its length."""
    number = len(value) if isinstance(value, list) else finite(value)
    return "" if number is None else f"{number:,}"
