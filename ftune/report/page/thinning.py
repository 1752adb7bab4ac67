"""Curves thinned so that what is drawn of them is honest and small."""

from itertools import pairwise
from typing import NamedTuple

from ftune.report.run_record import Series


class Thinned(NamedTuple):
    """A series in groups of neighbours: the middle step of each group, its mean, its lowest and its highest value.

    `group` says how many values a group has; with 1, all three are the value itself.
    """

    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]
    group: int


def thinned(series: Series, most: int) -> Thinned:
    """At most `most` groups of equal size; the last may be smaller."""
    group = -(-len(series.values) // most) or 1
    edges = [*range(0, len(series.values), group), len(series.values)]
    parts = [series.values[start:end] for start, end in pairwise(edges)]
    return Thinned(
        [(series.steps[start] + series.steps[end - 1]) / 2 for start, end in pairwise(edges)],
        [sum(part) / len(part) for part in parts],
        [min(part) for part in parts],
        [max(part) for part in parts],
        group,
    )
