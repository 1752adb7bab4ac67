"""Where the time went, and what had been expected beside what was measured."""

from collections.abc import Sequence
from typing import NamedTuple

from ftune.report.measures import duration_in_words
from ftune.report.page.facts import peak_memory, throughput
from ftune.report.run_record import RunRecord, finite


class Phase(NamedTuple):
    """A part of the iterations of PPO."""

    name: str
    seconds: str
    share: float


class Expected(NamedTuple):
    """A quantity that an event `predicted` names, beside its measured value."""

    label: str
    predicted: str
    measured: str
    ratio: str
    """Measured over predicted."""


def phases(run: RunRecord) -> list[Phase]:
    """The `seconds` of the steps, summed by phase, the longest first."""
    sums: dict[str, float] = {}
    for event in run.of_kind("step"):
        seconds = event.get("seconds")
        for name, value in seconds.items() if isinstance(seconds, dict) else ():
            sums[name] = sums.get(name, 0.0) + (finite(value) or 0.0)
    total = sum(sums.values())
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [Phase(name, duration_in_words(value), value / total) for name, value in ordered if value > 0]


def expected(run: RunRecord) -> list[Expected]:
    """What was predicted before the first step and measured since; empty where nothing was predicted."""
    event = run.last("predicted")
    on_gpu = event.get("on_gpu", True)  # on a CPU it is the whole process that was measured
    wanted: Sequence[tuple[str, str, float | None]] = [
        ("memory_gib", "Peak memory, GiB", peak_memory(run) if on_gpu else None),
        ("tokens_per_s", "Tokens per second", throughput(run)),
        ("seconds", "Time, seconds", run.seconds or None),
    ]
    return [
        Expected(label, f"{predicted:,.3g}", f"{measured:,.3g}", f"{measured / predicted:.2f}")
        for field, label, measured in wanted
        if (predicted := finite(event.get(field))) and measured is not None
    ]
