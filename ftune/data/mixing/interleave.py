"""Sources that take turns."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Literal

from ftune.data.mixing.base import Mix, Sources, T

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftune.data.mixing.base import Order

DRAWS = 4096
"""Turns that are drawn at once."""


class Interleave(Mix):
    """Each row comes from a source drawn with a probability in proportion to its weight."""

    type: Literal["interleave"] = "interleave"

    stop: Literal["first", "all"] = "all"
    """The epoch ends when the first source is used up, or when all are; those used up earlier begin again."""

    def order(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> "Order":
        """Draws until the first source, or the last one, is used up."""
        import numpy as np

        wanted = np.array(sizes)
        done, end = (np.any, min) if self.stop == "first" else (np.all, max)
        batches: list[NDArray[np.int32]] = []
        counts = np.zeros(len(sizes), np.int64)
        while not done(counts >= wanted):
            batches.append(_draws(weights, seed, DRAWS * len(batches)))
            counts += np.bincount(batches[-1], minlength=len(sizes))
        turns = np.concatenate(batches)
        used_up = np.flatnonzero(counts >= wanted).tolist()
        ends = [int(np.flatnonzero(turns == source)[sizes[source] - 1]) for source in used_up]
        which = turns[: end(ends) + 1]
        rows = np.empty(len(which), np.int64)
        for source, size in enumerate(sizes):
            here = which == source
            rows[here] = np.arange(here.sum()) % size
        return which, rows

    def stream(self, sources: Sources[T], weights: Sequence[float], seed: int) -> Iterator[tuple[int, T]]:
        """The same draws over streamed sources."""
        rows = [open_source() for open_source in sources]
        ended: set[int] = set()
        for source in _turns(weights, seed):
            row = next(rows[source], None)
            if row is None:
                ended.add(source)
                if self.stop == "first" or len(ended) == len(sources):
                    return
                rows[source] = sources[source]()
                row = next(rows[source])
            yield source, row


def _turns(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Whose turn it is, without end."""
    for batch in count():
        yield from _draws(weights, seed, batch * DRAWS).tolist()


def _draws(weights: Sequence[float], seed: int, drawn: int) -> "NDArray[np.int32]":
    """The next sources; a draw depends on the seed and on how many were drawn before, on nothing else."""
    import numpy as np

    shares = np.array(weights) / sum(weights)
    return np.random.default_rng([seed, drawn]).choice(len(weights), DRAWS, p=shares).astype(np.int32)
