"""Near duplicates: rows whose sets of word 5-grams overlap, found without comparing every row with every other.

A. Broder, "On the resemblance and containment of documents" (1997): the resemblance (Jaccard similarity) of two sets is
told from the smallest hashes of their members. J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets",
chapter 3: rows that share a band of min-hashes are candidates. Characters of scripts that put no blanks between words
count as words.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]
Scalar = TypeVar("Scalar", np.int64, np.uint32, np.uint64)

WORDS = 5
"""Words in a gram."""

BANDS, BAND = 10, 4
"""Bands, and min-hashes in each: a pair of similarity 0.8 shares one in 99.5 % of all cases, one of 0.3 in 8 %."""

SMALLEST = 128
"""So many of the smallest hashes are kept: similarity is exact below 128 different grams a row, and has a standard
error of at most 0.044 above."""

SIMILAR = 0.8
"""Similarity from which two rows are near duplicates."""

BATCH = 1024
"""Rows that are hashed at once, and pairs that are compared at once."""

NONE = np.uint32(2**32 - 1)
"""Fills up the smallest hashes of a row with fewer grams."""

UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese kana, Chinese characters."""

UNSPACED_WORDS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")

_NUMBERS = np.random.default_rng(1997)
FACTORS = _NUMBERS.integers(1, 2**32, BANDS * BAND, dtype=np.uint32) | np.uint32(1)
TERMS = _NUMBERS.integers(0, 2**32, BANDS * BAND, dtype=np.uint32)
"""Hash function k of a gram x is (factor * x + term) mod 2**32."""

MIX = _NUMBERS.integers(1, 2**64, WORDS, dtype=np.uint64) | np.uint64(1)


class Sketch(NamedTuple):
    """What is remembered of n rows, 552 bytes each."""

    bands: Hashes
    """n x BANDS: a number for the min-hashes of each band."""
    smallest: Hashes
    """n x SMALLEST: the smallest hashes of different grams, ascending, filled up with NONE."""


class Sketches:
    """Sketches of the rows of one part: of all of them, or of a seeded uniform sample of `limit` rows.

    The sample is a reservoir (Vitter 1985, algorithm R), so rows may come one by one in any number.
    """

    def __init__(self, limit: int, seed: int) -> None:
        """`limit` rows at most are remembered."""
        self.seen = 0
        self._limit = limit
        self._random = random.Random(seed)  # noqa: S311 - a repeatable sample, no secret
        self._rows = np.zeros(0, np.int64)
        self._sketch = Sketch(np.zeros((0, BANDS), np.uint32), np.zeros((0, SMALLEST), np.uint32))
        self._pending: dict[int, tuple[int, Hashes]] = {}

    def add(self, row: int, text: str) -> None:
        """Take the text of row number `row`."""
        slot = self.seen if self.seen < self._limit else self._random.randrange(self.seen + 1)
        self.seen += 1
        if slot < self._limit:
            self._pending[slot] = (row, word_hashes(text))
            if len(self._pending) >= BATCH:
                self._flush()

    def taken(self, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Sketch]:
        """The numbers of the remembered rows that are `wanted`, by number, and their sketches; both ascending."""
        self._flush()
        order = np.argsort(self._rows[: min(self.seen, self._limit)])
        order = order[wanted[self._rows[order]]]
        return self._rows[order], Sketch(*(array[order] for array in self._sketch))

    def _flush(self) -> None:
        if not self._pending:
            return
        slots = np.fromiter(self._pending, np.int64)
        if slots.max() >= len(self._rows):
            more = min(max(len(self._rows), BATCH), self._limit)
            self._rows = _longer(self._rows, more)
            self._sketch = Sketch(*(_longer(array, more) for array in self._sketch))
        self._rows[slots] = [row for row, _ in self._pending.values()]
        new = sketch([words for _, words in self._pending.values()])
        self._sketch.bands[slots], self._sketch.smallest[slots] = new
        self._pending.clear()


def word_hashes(text: str) -> Hashes:
    """A number for each word; case does not count. Fewer than five words are filled up to one gram."""
    text = text.casefold()
    words = text.encode().split() if text.isascii() else [_bytes(word) for word in UNSPACED_WORDS.findall(text)]
    words += [b""] * (WORDS - len(words))
    return np.fromiter(map(crc32, words), np.uint32, len(words))


def sketch(rows: Sequence[Hashes]) -> Sketch:
    """Sketches of rows, given the hashes of their words."""
    ends = np.cumsum([len(row) for row in rows])
    crossing = (ends[:-1, None] - np.arange(1, WORDS)).ravel()  # grams that begin in one row and end in the next
    grams = np.delete(_grams(np.concatenate(rows)), crossing)
    starts = np.concatenate([[0], ends[:-1] - (WORDS - 1) * np.arange(1, len(rows))])
    return Sketch(_bands(grams, starts), _smallest(grams, starts))


def similar_pairs(found: Sketch) -> NDArray[np.int64]:
    """Pairs (lower, higher index) of rows that are at least 0.8 similar (pairs x 2).

    Of rows that share a band, each is compared with the first and with its neighbour in the order of another band: a
    crowd of n rows costs 2n comparisons, not n squared, and each of its rows still meets one of the others.
    """
    count = len(found.bands)
    pairs = [np.zeros(0, np.int64)]
    for number, band in enumerate(found.bands.T):
        order = np.lexsort((found.bands[:, number - 1], band))
        repeated = band[order[1:]] == band[order[:-1]]
        first = np.maximum.accumulate(np.where(np.concatenate([[True], ~repeated]), np.arange(count), 0))
        later = np.flatnonzero(repeated) + 1
        for earlier in (later - 1, first[later]):
            low, high = np.sort([order[later], order[earlier]], axis=0)
            pairs.append(low * count + high)
    low, high = np.divmod(_distinct(np.concatenate(pairs)), max(count, 1))
    parts = [slice(start, start + BATCH) for start in range(0, len(low), BATCH)]
    alike = [similarity(found.smallest[low[part]], found.smallest[high[part]]) >= SIMILAR for part in parts]
    kept = np.concatenate([np.zeros(0, bool), *alike])
    return np.stack([low[kept], high[kept]], axis=1)


def similarity(left: Hashes, right: Hashes) -> NDArray[np.float64]:
    """The Jaccard similarity of each row of `left` with the same row of `right` (n x SMALLEST both).

    Broder's estimate: of the smallest hashes of the union, the share that is in both. Where both rows are whole, that
    is of the whole union, and no estimate.
    """
    union = np.sort(np.concatenate([left, right], axis=1), axis=1)
    real = union != NONE
    again = np.zeros_like(real)
    again[:, 1:] = (union[:, 1:] == union[:, :-1]) & real[:, 1:]
    rank = np.cumsum(real & ~again, axis=1)
    whole = (left[:, -1] == NONE) & (right[:, -1] == NONE)
    inside = rank <= np.where(whole, 2 * SMALLEST, SMALLEST)[:, None]
    shared = np.sum(again & inside, axis=1, dtype=np.float64)
    estimates: NDArray[np.float64] = shared / np.maximum((real & ~again & inside).sum(axis=1), 1)
    return estimates


def _grams(words: Hashes) -> Hashes:
    """A number for each run of five words: the upper half of a sum of products."""
    count = len(words) - WORDS + 1
    total = np.zeros(count, np.uint64)
    for place, factor in enumerate(MIX):
        total += words[place : place + count] * factor
    return (total >> np.uint64(32)).astype(np.uint32)


def _bands(grams: Hashes, starts: NDArray[np.int64]) -> Hashes:
    minima = np.empty((BANDS * BAND, len(starts)), np.uint32)
    hashed = np.empty_like(grams)
    for number, (factor, term) in enumerate(zip(FACTORS, TERMS, strict=True)):
        np.multiply(grams, factor, out=hashed)
        np.add(hashed, term, out=hashed)
        np.minimum.reduceat(hashed, starts, out=minima[number])
    mixed = minima.reshape(BANDS, BAND, -1) * MIX[:BAND, None]
    numbers: Hashes = (mixed.sum(axis=1) >> np.uint64(32)).astype(np.uint32)
    return numbers.T


def _smallest(grams: Hashes, starts: NDArray[np.int64]) -> Hashes:
    sizes = np.diff(np.append(starts, len(grams)))
    rows = np.repeat(np.arange(len(starts), dtype=np.uint64), sizes) << np.uint64(32)
    different = _distinct(rows | np.minimum(grams, NONE - np.uint32(1)))
    begins = np.searchsorted(different, np.arange(len(starts) + 1, dtype=np.uint64) << np.uint64(32))
    places = begins[:-1, None] + np.arange(SMALLEST)
    inside = places < begins[1:, None]
    smallest: Hashes = np.full(places.shape, NONE)
    smallest[inside] = different[places[inside]].astype(np.uint32)
    return smallest


def _distinct(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """The values in order, each once. `np.unique` hashes whole numbers, which takes 50 times as long."""
    ordered = np.sort(values)
    distinct: NDArray[Scalar] = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return distinct


def _longer(array: NDArray[Scalar], more: int) -> NDArray[Scalar]:
    """The array with `more` empty rows."""
    return np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
