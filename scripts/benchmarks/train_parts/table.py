"""Results for people: a markdown table, and how much faster ftune is."""

import statistics
from collections.abc import Iterable, Sequence

from train_parts.work import Result


def markdown(results: Sequence[Result]) -> str:
    """One line a setting and way; of several rounds the median."""
    lines = ["| setting | who | tok/s | GiB | first step | loss |", "|---|---|---|---|---|---|"]
    for setting, way in dict.fromkeys((result["setting"], result["way"]) for result in results):
        rounds = _of(results, setting, way)
        done = [one for one in rounds if "error" not in one]
        if not done:
            lines.append(f"| {setting} | {way} | {rounds[0]['error'].replace('|', '/')} | | | |")
            continue
        peak, first = max(one["peak_gib"] for one in done), min(one["first_step_s"] for one in done)
        loss = done[0]["losses"][0] if done[0]["losses"] else ""
        lines.append(f"| {setting} | {way} | {median(done):,.0f} | {peak:.1f} | {first:.1f} s | {loss} |")
    return "\n".join(lines)


def ratios(results: Sequence[Result]) -> str:
    """How many times as fast as each other way the ways of ftune are."""
    lines = []
    for setting in dict.fromkeys(result["setting"] for result in results):
        done = [result for result in results if result["setting"] == setting and "error" not in result]
        ways = list(dict.fromkeys(result["way"] for result in done))
        for ours in [way for way in ways if way.startswith("ftune")]:
            for other in [way for way in ways if not way.startswith("ftune")]:
                pair = [_of(done, setting, way) for way in (ours, other)]
                wall, cpu = (
                    median(pair[0], key) / median(pair[1], key) for key in ("tokens_per_s", "tokens_per_cpu_s")
                )
                on_cpu = f" ({cpu:.2f} x by processor time)" if pair[0][0]["device"].startswith("CPU") else ""
                lines.append(f"{setting}: {ours} is {wall:.2f} x as fast as {other}{on_cpu}")
    return "\n".join(lines)


def median(results: Iterable[Result], key: str = "tokens_per_s") -> float:
    """Of several rounds."""
    return float(statistics.median(result[key] for result in results))


def _of(results: Sequence[Result], setting: str, way: str) -> list[Result]:
    return [result for result in results if (result["setting"], result["way"]) == (setting, way)]
