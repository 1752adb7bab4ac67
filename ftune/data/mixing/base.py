"""What every way of mixing has: one verb for sources whose rows are known, one for sources that are streamed."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

from ftune.core.section import Section

if TYPE_CHECKING:  # at run time numpy is imported where it is used: recipes are checked without it
    import numpy as np
    from numpy.typing import NDArray

    Order: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int64]]
    """Of each row of the mixture: the number of its source, and its number there."""


T = TypeVar("T")

Sources: TypeAlias = Sequence[Callable[[], Iterator[T]]]
"""Streamed sources: each call opens one anew."""


class Mix(Section):
    """A way of mixing. A subclass is one file of this folder."""

    streams: ClassVar[bool] = True
    """Whether it works without knowing how many rows the sources have."""

    @classmethod
    def name(cls) -> str:
        """The `type` that a recipe gives for it."""
        return str(cls.model_fields["type"].default)

    def order(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> "Order":
        """One epoch of sources with so many rows."""
        raise NotImplementedError

    def stream(self, sources: Sources[T], weights: Sequence[float], seed: int) -> Iterator[tuple[int, T]]:
        """One epoch of streamed sources: the number of the source and its row."""
        raise NotImplementedError


def whole_and_part(rows: int, times: float, rng: "np.random.Generator") -> "NDArray[np.int64]":
    """Indexes of the rows of one source, each floor(times) times, then a draw for the rest."""
    import numpy as np

    whole, part = divmod(times, 1.0)
    drawn = np.sort(rng.choice(rows, round(part * rows), replace=False))
    return np.concatenate([*[np.arange(rows)] * int(whole), drawn])


def one_after_another(rows: "Sequence[NDArray[np.int64]]") -> "Order":
    """The rows of each source, source after source."""
    import numpy as np

    return np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows]), np.concatenate(rows)
