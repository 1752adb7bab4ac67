"""Held-out rows: a seeded split that never has the same row on both sides."""

import random
from collections.abc import Hashable, Sequence

from ftune.core.errors import DataError


def split(keys: Sequence[Hashable], fraction_or_count: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Indexes to train on and indexes to hold out, both ascending.

    Rows with equal `keys` (an example, or its tokens) go to the same side. An int is a number of rows, a float between
    0 and 1 a share of them; where duplicates do not fit, fewer rows are held out. The same keys and seed give the
    same split. Raises DataError where one of the sides would be empty.
    """
    wanted = fraction_or_count if isinstance(fraction_or_count, int) else round(len(keys) * fraction_or_count)
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a repeatable shuffle, no secret
    held_out: list[int] = []
    for group in shuffled:
        if len(held_out) + len(group) <= wanted:
            held_out += group
    if not held_out or len(held_out) == len(keys):
        raise DataError(
            f"cannot hold out {fraction_or_count} of {len(keys):,} rows ({len(groups):,} different ones): "
            "both sides need at least one row"
        )
    kept = set(range(len(keys))) - set(held_out)
    return sorted(kept), sorted(held_out)
