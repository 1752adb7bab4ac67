"""Near duplicates: MinHash signatures of word 5-grams, compared where locality-sensitive hashing puts rows together.

A. Broder, "On the resemblance and containment of documents" (1997); J. Leskovec, A. Rajaraman, J. Ullman, "Mining of
Massive Datasets", chapter 3. Characters of scripts that put no blanks between words count as words. The share of equal
places in two signatures estimates the Jaccard similarity of the two sets of 5-grams; with 64 places its standard error
is at most 0.0625.
"""

import random
import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

WORDS = 5
"""Words in a gram."""

HASHES, BAND = 64, 4
"""Places in a signature, and how many of them one band holds: 16 bands find 99.98 % of pairs of similarity 0.8."""

SIMILAR = 0.8
"""Estimated similarity from which two rows are near duplicates."""

BATCH = 256
"""Rows whose signatures are made at once."""

UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese kana, Chinese characters."""

UNSPACED_WORDS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")

_NUMBERS = np.random.default_rng(1997)
FACTORS = _NUMBERS.integers(1, 2**32, HASHES, dtype=np.uint32) | np.uint32(1)
TERMS = _NUMBERS.integers(0, 2**32, HASHES, dtype=np.uint32)
"""Hash function k of x is (factor * x + term) mod 2**32."""

MIX = _NUMBERS.integers(1, 2**64, WORDS, dtype=np.uint64) | np.uint64(1)


class Sketches:
    """Signatures of the rows of one part: of all of them, or of a seeded uniform sample of `limit` rows.

    The sample is a reservoir (Vitter 1985, algorithm R), so rows may come one by one in any number. 256 bytes a row.
    """

    def __init__(self, limit: int, seed: int) -> None:
        """`limit` rows at most are remembered."""
        self.seen = 0
        self._limit = limit
        self._random = random.Random(seed)  # noqa: S311 - a repeatable sample, no secret
        self._rows = np.zeros(BATCH, np.int64)
        self._signatures = np.zeros((BATCH, HASHES), np.uint32)
        self._pending: dict[int, tuple[int, NDArray[np.uint32]]] = {}

    def add(self, row: int, text: str) -> None:
        """Take the text of row number `row`."""
        slot = self.seen if self.seen < self._limit else self._random.randrange(self.seen + 1)
        self.seen += 1
        if slot < self._limit:
            self._pending[slot] = (row, word_hashes(text))
            if len(self._pending) >= BATCH:
                self._flush()

    def taken(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """The numbers of the remembered rows, ascending, and their signatures (rows x HASHES)."""
        self._flush()
        filled = min(self.seen, self._limit)
        order = np.argsort(self._rows[:filled], kind="stable")
        return self._rows[order], self._signatures[order]

    def _flush(self) -> None:
        if not self._pending:
            return
        slots = np.fromiter(self._pending, np.int64)
        while slots.max() >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._rows[slots] = [row for row, _ in self._pending.values()]
        self._signatures[slots] = signatures([words for _, words in self._pending.values()])
        self._pending.clear()


def word_hashes(text: str) -> NDArray[np.uint32]:
    """A number for each word; case does not count. Fewer than five words are filled up to one gram."""
    text = text.casefold()
    words = text.encode().split() if text.isascii() else [_bytes(word) for word in UNSPACED_WORDS.findall(text)]
    missing = [b""] * (WORDS - len(words))
    return np.fromiter(map(crc32, [*words, *missing]), np.uint32)


def signatures(rows: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """For each row of word hashes the minima of 64 hash functions over its 5-grams (rows x HASHES)."""
    ends = np.cumsum([len(row) for row in rows])
    crossing = (ends[:-1, None] - np.arange(1, WORDS)).ravel()  # grams that begin in one row and end in the next
    grams = np.delete(_grams(np.concatenate(rows)), crossing)
    starts = np.concatenate([[0], ends[:-1] - (WORDS - 1) * np.arange(1, len(rows))])
    found = np.empty((HASHES, len(rows)), np.uint32)
    hashed = np.empty_like(grams)
    for number, (factor, term) in enumerate(zip(FACTORS, TERMS, strict=True)):
        np.multiply(grams, factor, out=hashed)
        np.add(hashed, term, out=hashed)
        np.minimum.reduceat(hashed, starts, out=found[number])
    return found.T


def _grams(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A number for each run of five words: the upper half of a sum of products."""
    count = len(words) - WORDS + 1
    total = np.zeros(count, np.uint64)
    for place, factor in enumerate(MIX):
        total += words[place : place + count] * factor
    return (total >> np.uint64(32)).astype(np.uint32)


def similar_pairs(found: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Pairs (lower, higher index) of rows whose signatures agree in 80 % of their places (pairs x 2).

    Of rows that share a band, each is compared with the first and with its neighbour in the order of the next band: a
    crowd of n rows costs 2n comparisons, not n squared, and each of its rows still meets one of the others.
    """
    bands = _bands(found)
    pairs = [np.zeros((0, 2), np.int64)]
    for number, band in enumerate(bands):
        order = np.lexsort((bands[number - 1], band))
        repeated = band[order[1:]] == band[order[:-1]]
        begins = np.concatenate([[True], ~repeated])
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        later = np.flatnonzero(repeated) + 1
        for earlier in (later - 1, first[later]):
            pairs.append(_verified(found, np.sort(np.stack([order[later], order[earlier]], axis=1), axis=1)))
    return np.unique(np.concatenate(pairs), axis=0)


def _bands(found: NDArray[np.uint32]) -> list[NDArray[np.uint64]]:
    """One number a row for each band."""
    return [(found[:, start : start + BAND] * MIX[:BAND]).sum(axis=1) for start in range(0, HASHES, BAND)]


def _verified(found: NDArray[np.uint32], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    pieces = np.array_split(pairs, len(pairs) // 2**16 + 1)
    return np.concatenate([part[(found[part[:, 0]] == found[part[:, 1]]).mean(axis=1) >= SIMILAR] for part in pieces])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
