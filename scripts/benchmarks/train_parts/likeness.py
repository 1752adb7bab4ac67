"""How alike loss curves are: between ways with the same rows in the same order, and between two orders of one way."""

import statistics
from collections.abc import Sequence
from itertools import combinations

from ftune.report.curves import smoothed
from train_parts.work import Result

Curves = dict[tuple[str, str], list[float]]
"""Smoothed losses by way and setting, which is the seed."""


def curves_of(results: Sequence[Result]) -> Curves:
    """Of the runs that have a loss for each step."""
    whole = [result for result in results if "error" not in result and None not in result["losses"]]
    return {(result["way"], result["setting"]): smoothed(result["losses"]) for result in whole}


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference of two curves. Raises ValueError where one is longer."""
    return statistics.fmean(abs(left - right) for left, right in zip(one, other, strict=True))


def noise(curves: Curves, plain: str) -> float:
    """How far the curves of `plain` are apart that differ by their seed alone: the mean over pairs of seeds.

    Raises StatisticsError where there are fewer than two.
    """
    seeds = [curve for (way, _), curve in curves.items() if way == plain]
    return statistics.fmean(apart(one, other) for one, other in combinations(seeds, 2))


def table(results: Sequence[Result], plain: str) -> str:
    """A line a way: how far it is from `plain` with the same seed, and whether that is within the seeds' noise."""
    curves = curves_of(results)
    lines = ["| way | from plain, same seed | above it | last loss | |", "|---|---|---|---|---|"]
    try:
        between = noise(curves, plain)
    except statistics.StatisticsError:
        return f"nothing to compare with: '{plain}' has not trained with two seeds"
    for way in dict.fromkeys(result["way"] for result in results):
        seeds = [result["setting"] for result in results if result["way"] == way]
        missing = [seed for seed in seeds if (way, seed) not in curves or (plain, seed) not in curves]
        if missing:
            lines.append(f"| {way} | no whole curve: {', '.join(missing)} | | | NOT within |")
            continue
        pairs = [(curves[way, seed], curves[plain, seed]) for seed in seeds]
        far = statistics.fmean(apart(*pair) for pair in pairs)
        above = statistics.fmean(statistics.fmean(one) - statistics.fmean(other) for one, other in pairs)
        last = statistics.fmean(one[-1] for one, _ in pairs)
        verdict = "" if way == plain else "within" if far <= between else "NOT within"
        lines.append(f"| {way} | {far:.5f} | {above:+.5f} | {last:.4f} | {verdict} |")
    lines.append(f"\nBetween the seeds of {plain}: {between:.5f}. A way is within where it is no farther from {plain}.")
    return "\n".join(lines)
