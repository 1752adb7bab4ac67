"""One value of a metric on a set of rows: what each row has, and what all of them have together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

Better: TypeAlias = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is read."""

    better: Better = "higher"
    """Which way is good; a length is good neither way."""
    scale: Literal["share", "points", "number"] = "share"
    """`share`: 0 to 1; `points`: 0 to 100, as BLEU is given (TER may be more); `number`: anything."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A value of many rows that is not the mean of theirs, but a function of sums over the rows.

    BLEU divides counts of a corpus, a perplexity is the exponential of a mean over tokens. With the counts of each row
    kept, any sample of the rows has its value at once.
    """

    statistics: Sequence[Sequence[float]]
    """S numbers a row. Those of a row that is not scored are never read."""
    value: "Callable[[Floats], Floats]"
    """From sums over rows, shape (..., S), to values, shape (...). Finite for any sums of one row or more."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One value of a metric on N rows."""

    rows: Sequence[float | None]
    """The value of each row, in order; None where the row cannot be scored, which is not the same as 0."""
    kind: Kind = Kind()
    pool: Pool | None = None
    """Where the value of all rows is not the mean of theirs."""
    whole: float | None = None
    """The value of all rows, where sums over rows do not give it either; there is no interval for it."""
    signature: str = ""
    """How it was computed, for a paper: sacrebleu's signature."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number that is not finite, and for statistics of another number of rows."""
        bad = next((row for row, value in enumerate(self.rows) if value is not None and not math.isfinite(value)), None)
        if bad is not None:
            raise ValueError(f"row {bad} scores {self.rows[bad]}; a score is a finite number, or None")
        if self.pool and len(self.pool.statistics) != len(self.rows):
            raise ValueError(f"statistics of {len(self.pool.statistics)} rows for {len(self.rows)} rows")

    @property
    def missing(self) -> int:
        """How many rows could not be scored."""
        return sum(value is None for value in self.rows)

    @property
    def value(self) -> float | None:
        """The value of all rows that are scored; None without any."""
        if self.whole is not None or self.missing == len(self.rows):
            return self.whole
        scored = [row for row, value in enumerate(self.rows) if value is not None]
        return float(self.of(self.statistics(scored).sum(0)))

    def statistics(self, rows: Sequence[int]) -> "Floats":
        """The numbers of some rows that add up, shape (rows, S): those of the pool, or else the score and 1."""
        import numpy as np

        if self.pool:
            return np.array([self.pool.statistics[row] for row in rows], dtype=np.float64)
        return np.array([(self.rows[row], 1.0) for row in rows], dtype=np.float64)

    def of(self, sums: "Floats") -> "Floats":
        """The value for sums of the statistics, shape (..., S) to (...)."""
        mean: Floats = sums[..., 0] / sums[..., -1] if self.pool is None else self.pool.value(sums)
        return mean
