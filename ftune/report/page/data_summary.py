"""The rows of a run: how many, what became of them, how long they are, and how much of them is trained."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ftune.report.run_record import RunRecord, dig, finite

PARTS = (("train", "training"), ("validation", "held-out"), ("held_out", "held-out"))
MOST_CAUSES = 20

REMARKS = {
    "truncated": "rows were cut to max_length",
    "truncated_completions": "rows lost trained tokens by that",
    "truncated_stop_tokens": "rows lost a stop token by that",
    "empty_completions": "answers are empty",
    "control_text": "rows hold control tokens in their text, encoded as plain text",
    "tools_as_text": "rows have their tools written as text",
}


class Bar(NamedTuple):
    """One bar of a histogram: from where, how many rows, and its length as a share of the longest bar."""

    low: str
    rows: int
    length: float


class Part(NamedTuple):
    """The training rows or the held-out ones."""

    name: str
    facts: list[tuple[str, str]]
    share: float | None
    """Of the tokens, those that are trained: what the mask leaves."""
    remarks: list[str]
    faults: list[str]
    failed_checks: list[str]
    passed_checks: int
    bars: Sequence[Bar]
    """The histogram of lengths; empty when none was recorded."""
    unit: str


def data_summary(run: RunRecord) -> list[Part]:
    """The parts that the run knows of."""
    found = ((name, dig(run.data, key)) for key, name in PARTS)
    return [_part(name, values) for name, values in found if isinstance(values, dict) and values]


def _part(name: str, values: dict[str, Any]) -> Part:
    counts = values["counts"] if isinstance(values.get("counts"), dict) else values
    tokens, trained = finite(counts.get("tokens")), finite(counts.get("trained_tokens"))
    dropped = counts["dropped"] if isinstance(counts.get("dropped"), dict) else {}
    remarks = [f"{number:,} {words}" for key, words in REMARKS.items() if (number := finite(counts.get(key)))]
    causes = [f"{number:,} dropped: {cause}" for cause, each in dropped.items() if (number := finite(each))]
    checks = values["checks"] if isinstance(values.get("checks"), dict) else {}
    faults = counts["faults"] if isinstance(counts.get("faults"), list) else []
    bars, unit = _histogram(counts.get("lengths"))
    return Part(
        name=name,
        facts=_facts(values, counts),
        share=trained / tokens if trained is not None and tokens else None,
        remarks=[*causes[:MOST_CAUSES], *remarks],
        faults=[str(fault) for fault in faults[:MOST_CAUSES]],
        failed_checks=[str(check) for check, passed in checks.items() if passed is not True][:MOST_CAUSES],
        passed_checks=sum(passed is True for passed in checks.values()),
        bars=bars,
        unit=unit,
    )


def _facts(values: dict[str, Any], counts: dict[str, Any]) -> list[tuple[str, str]]:
    formats = values.get("format")
    number = {key: f"{value:,.0f}" for key in counts if (value := finite(counts[key])) is not None}
    spread = [number.get(f"trained_{key}", "") for key in ("min", "median", "max")]
    longest = f"{number['longest']} tokens" if number.get("longest", "0") != "0" else ""
    place = f" ({counts['longest_row']})" if longest and counts.get("longest_row") else ""
    facts = {
        "Format": ", ".join(map(str, formats)) if isinstance(formats, list) else str(formats or ""),
        "Read": number.get("read", ""),
        "Kept": number.get("kept", ""),
        "Prompts": number.get("prompts", ""),
        "Tokens": number.get("tokens", ""),
        "Trained tokens": number.get("trained_tokens", ""),
        "Trained tokens a row": f"{spread[0]} to {spread[2]}, median {spread[1]}" if all(spread) else "",
        "Longest row": longest + place,
        "Fingerprint": str(values.get("fingerprint") or ""),
    }
    return [(label, value) for label, value in facts.items() if value]


def _histogram(lengths: object) -> tuple[list[Bar], str]:
    """Bars from `{"unit": ..., "bins": [{"low": ..., "count": ...}, ...]}`, as `Counts.measure` counts them."""
    bins = dig(lengths, "bins")
    found = [
        (low, int(count))
        for each in (bins if isinstance(bins, list) else [])
        if (low := finite(dig(each, "low"))) is not None and (count := finite(dig(each, "count"))) is not None
    ][:40]
    most = max((count for _, count in found), default=0)
    if most <= 0:
        return [], ""
    return [Bar(f"{low:,.0f}", count, max(count, 0) / most) for low, count in found], str(dig(lengths, "unit") or "")
