"""How long rows are, in bins that a terminal can show."""

from array import array
from collections.abc import Iterator
from heapq import heappush, heapreplace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ftune.data.audit.report import Bin, Finding, Lengths
from ftune.data.audit.rules import PLACES, finding

MAX_BINS = 16

EDGES = np.array([0, *(edge for power in range(3, 40) for edge in (2**power, 3 * 2 ** (power - 1)))])
"""0, 8, 12, 16, 24, 32, 48, ...: two bins for each doubling."""

FAR = 10
"""A row is far longer than the others from so many times the median ..."""

FAR_AT_LEAST = {"tokens": 2048, "characters": 8192}
"""... and so many tokens or characters."""


class LengthTally:
    """Four bytes a row, and the places of the longest ones."""

    def __init__(self, unit: Literal["tokens", "characters"]) -> None:
        """`unit` is what is counted."""
        self._unit = unit
        self._lengths = array("I")
        self._longest: list[tuple[int, int, str]] = []  # a heap of length, minus the row's number, place

    def add(self, length: int, place: str) -> None:
        """Take the length of one row."""
        entry = (length, -len(self._lengths), place)
        self._lengths.append(length)
        if len(self._longest) < PLACES:
            heappush(self._longest, entry)
        elif entry > self._longest[0]:
            heapreplace(self._longest, entry)

    def measured(self) -> Lengths | None:
        """Range, quantiles and histogram; None without rows."""
        if not self._lengths:
            return None
        lengths = np.array(self._lengths, np.int64)
        longest, _, place = max(self._longest)
        median, p99 = (int(value) for value in np.quantile(lengths, [0.5, 0.99]))
        return Lengths(self._unit, _bins(lengths), int(lengths.min()), median, p99, longest, place)

    def findings(self) -> Iterator[Finding]:
        """Rows far longer than the others, the longest first."""
        if not self._lengths:
            return
        lengths = np.array(self._lengths, np.int64)
        limit = max(FAR * float(np.median(lengths)), FAR_AT_LEAST[self._unit])
        if count := int((lengths > limit).sum()):
            yield finding("long_rows", count, [place for _, _, place in sorted(self._longest, reverse=True)][:count])


def _bins(lengths: NDArray[np.int64]) -> tuple[Bin, ...]:
    """Bins from the shortest to the longest row: two for each doubling, or one where that would be too many."""
    for edges in (EDGES, EDGES[[0, *range(1, len(EDGES), 2)]]):
        low, high = np.searchsorted(edges, [lengths.min(), lengths.max()], side="right")
        used = edges[low - 1 : high + 1]
        if len(used) <= MAX_BINS + 1:
            break
    counts, _ = np.histogram(lengths, used)
    pairs = zip(used[:-1], used[1:], counts, strict=True)
    return tuple(Bin(int(start), int(end) - 1, int(count)) for start, end, count in pairs)
