"""Held-out rows: a seeded split that never has the same row, or the same group, on both sides."""

import numpy as np
from numpy.typing import NDArray

from ftune.core.errors import DataError


def split(
    keys: NDArray[np.uint64],
    fraction_or_count: float | int,
    seed: int,
    *,
    groups: NDArray[np.uint64] | None = None,
    stay: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indexes to train on and indexes to hold out, both ascending.

    Rows with equal `keys` (hashes of their content) go to the same side, and so do rows of one group, and whatever
    these join. Rows where `stay` is true are never held out, nor is what goes with them. An int is a number of rows, a
    float between 0 and 1 a share of them; where such sets do not fit, fewer rows are held out. The same keys and seed
    give the same split. Raises DataError where a side would be empty.
    """
    wanted = fraction_or_count if isinstance(fraction_or_count, int) else round(len(keys) * fraction_or_count)
    sets = _numbered(keys) if groups is None else _joined(_numbered(keys), _numbered(groups))
    sizes = np.bincount(sets)
    stays = np.zeros(len(sizes), np.bool_)
    stays[sets[stay] if stay is not None else []] = True
    held_out, rows = np.zeros(len(sizes), np.bool_), 0
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        if rows + sizes[number] <= wanted and not stays[number]:
            held_out[number] = True
            rows += int(sizes[number])
        if rows == wanted:
            break
    if not rows or rows == len(keys):
        what = "groups" if groups is not None else "different ones"
        smallest = int(sizes[~stays].min(initial=len(keys)))
        few = 0 < wanted < smallest < len(keys)
        why = f"the smallest of them has {smallest:,}; hold out so many" if few else "both sides need at least one row"
        raise DataError(f"cannot hold out {fraction_or_count} of {len(keys):,} rows ({len(sizes):,} {what}): {why}")
    out = held_out[sets]
    return np.flatnonzero(~out), np.flatnonzero(out)


def _numbered(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Each value as its number among the different ones, from 0, in the order of the values."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _joined(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the sets that are left when rows that share a number in either are put together."""
    smallest = one.copy()
    while True:
        before = smallest
        for numbers in (other, one):
            least = np.full(numbers.max() + 1, len(one), np.int64)
            np.minimum.at(least, numbers, smallest)
            smallest = least[numbers]
        if np.array_equal(before, smallest):
            return _numbered(smallest.astype(np.uint64))
