"""Rows that occur twice: exactly, but for case and blanks, or nearly; within a part and across parts."""

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from ftune.data.audit.near import Sketch, Sketches, similar_pairs
from ftune.data.audit.report import PARTS, Finding, Part
from ftune.data.audit.rules import PLACES, finding
from ftune.data.audit.texts import Texts

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Duplicates:
    """Remembers of each row three hashes of 64 bits, its place in 8 bytes, and a sketch of a bounded number."""

    def __init__(self, near_limit: int, seed: int) -> None:
        """`near_limit` rows of each part at most are compared for near duplicates; 0 for none."""
        self._exact, self._normalised, self._prompts = array("Q"), array("Q"), array("Q")
        self._parts = array("B")
        self._files: dict[str, int] = {}
        self._file_of, self._lines = array("I"), array("I")
        self._near_limit = near_limit
        self._sketches = {part: Sketches(near_limit, seed) for part in PARTS}

    def add(self, part: Part, origin: str, texts: Texts) -> None:
        """Take one kept row."""
        self._exact.append(_hash(texts.marked))
        self._normalised.append(_hash(" ".join(texts.marked.casefold().split())))
        self._prompts.append(_hash(texts.prompt) if texts.prompt.strip() else 0)
        self._parts.append(PARTS.index(part))
        file, _, line = origin.rpartition(":")
        if not (file and line.isdecimal()):
            file, line = origin, "0"
        self._file_of.append(self._files.setdefault(file, len(self._files)))
        self._lines.append(int(line))
        if self._near_limit:
            self._sketches[part].add(len(self._exact) - 1, texts.spoken)

    def findings(self) -> list[Finding]:
        """Every kind that occurs. A row counts once, under the closest likeness that it has."""
        exact, normalised = np.array(self._exact, np.uint64), np.array(self._normalised, np.uint64)
        held = np.array(self._parts) == PARTS.index("held-out")
        repeats = _repeats(normalised, held)
        near, near_leaked = self._near(first=repeats < 0)
        within = {"duplicates": _repeats(exact, held), "duplicates_normalised": repeats, "near_duplicates": near}
        across = {
            "leaked": _leaks(exact, held),
            "leaked_normalised": _leaks(normalised, held),
            "near_leaked": near_leaked,
        }
        return [*self._each_once(within), *self._each_once(across), *self._other_answers(exact)]

    def notes(self) -> list[str]:
        """Which rows were not compared for near duplicates."""
        return [
            f"near duplicates: a sample of {self._near_limit:,} of the {sketches.seen:,} {part} rows was compared"
            for part, sketches in self._sketches.items()
            if sketches.seen > self._near_limit > 0
        ]

    def _near(self, first: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
        """Of each row an earlier near duplicate of its part, and of held-out rows one in train; -1 for none.

        Only rows marked in `first` are compared: those that repeat no earlier row.
        """
        taken = [sketches.taken(first) for sketches in self._sketches.values()]
        rows = np.concatenate([numbers for numbers, _ in taken])
        train = np.arange(len(rows)) < len(taken[PARTS.index("train")][0])
        found = Sketch(*(np.concatenate(both) for both in zip(*(sketch for _, sketch in taken), strict=True)))
        low, high = similar_pairs(found)[::-1].T  # backwards: of several the first is assigned last
        within, across = np.full(len(first), -1), np.full(len(first), -1)
        for like, chosen in ((within, train[low] == train[high]), (across, train[low] != train[high])):
            like[rows[high[chosen]]] = rows[low[chosen]]  # train comes first, each part in the order of its rows
        return within, across

    def _each_once(self, kinds: dict[str, Numbers]) -> Iterator[Finding]:
        """A finding for each kind that has rows which no kind before it had."""
        seen = np.zeros(len(self._exact), bool)
        for id, like in kinds.items():
            rows = np.flatnonzero((like >= 0) & ~seen)
            seen[rows] = True
            if len(rows):
                places = [f"{self._place(row)} (as {self._place(like[row])})" for row in rows[:PLACES]]
                yield finding(id, len(rows), places)

    def _other_answers(self, exact: Keys) -> Iterator[Finding]:
        """Rows that share their prompt with a row that is not equal to them."""
        prompts = np.array(self._prompts, np.uint64)
        different = np.unique(np.stack([prompts, exact]), axis=1)[0]
        values, counts = np.unique(different[different > 0], return_counts=True)
        rows = np.flatnonzero(np.isin(prompts, values[counts > 1]))
        if len(rows):
            yield finding("other_answers", len(rows), [self._place(row) for row in rows[:PLACES]])

    def _place(self, row: np.int64) -> str:
        file, line = list(self._files)[self._file_of[row]], self._lines[row]
        return f"{file}:{line}" if line else file


def _repeats(keys: Keys, held: NDArray[np.bool_]) -> Numbers:
    """Of each row the first row of its part with its key, or -1 where it is the first itself."""
    like = np.full(len(keys), -1)
    for rows in (np.flatnonzero(~held), np.flatnonzero(held)):
        _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
        earlier = rows[first[inverse]]
        like[rows] = np.where(earlier < rows, earlier, -1)
    return like


def _leaks(keys: Keys, held: NDArray[np.bool_]) -> Numbers:
    """Of each held-out row the first train row with its key; -1 for every other row."""
    like = np.full(len(keys), -1)
    train, out = np.flatnonzero(~held), np.flatnonzero(held)
    values, first = np.unique(keys[train], return_index=True)
    if len(values):
        at = np.minimum(np.searchsorted(values, keys[out]), len(values) - 1)
        like[out] = np.where(values[at] == keys[out], train[first[at]], -1)
    return like


def _hash(text: str) -> int:
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
