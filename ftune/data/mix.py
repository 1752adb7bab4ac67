"""Several prepared sources as one: training rows in the order of the mixture, held-out rows one after another."""

from collections.abc import Sequence

import numpy as np

from ftune.data.mixing.base import Mix
from ftune.data.prepared import Indexes, Part, Prepared


def mixed(parts: Sequence[Part], rows: Sequence[Indexes], weights: Sequence[float], mix: Mix, seed: int) -> Prepared:
    """The sequences of `parts` at `rows`, mixed. A source that has none left is left out."""
    some = [number for number, chosen in enumerate(rows) if len(chosen)]
    order, nth = mix.order([len(rows[number]) for number in some], [weights[number] for number in some], seed)
    which = np.array(some, np.int32)[order]
    picked = np.empty(len(which), np.int64)
    for number in some:
        here = which == number
        picked[here] = rows[number][nth[here]]
    return Prepared(parts, which, picked)


def chained(parts: Sequence[Part]) -> Prepared:
    """All sequences of all parts, part after part."""
    sizes = [len(part.table) for part in parts]
    which = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    return Prepared(parts, which, np.concatenate([np.arange(size) for size in sizes]))
