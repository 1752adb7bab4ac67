"""What will be trained on: sequences of prepared sources in an order, and what was found out on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ftune.data.checks import Check
from ftune.data.counts import Counts
from ftune.data.table import TokenTable

Indexes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """One source as tokens."""

    table: TokenTable
    """The sequences; of preferences, the chosen ones."""
    rejected: TokenTable
    """Of preferences, the rejected ones, as many and in the same order; else empty."""
    counts: Counts
    checks: list[Check]
    format: str
    """The row format's name."""
    reason: str
    """Why it was taken."""
    fingerprint: str
    """xxh3_128 of all ids, masks and lengths: equal for equal training data."""

    def tables(self) -> list[TokenTable]:
        """Its tables that have rows."""
        return [table for table in (self.table, self.rejected) if len(table)]


class Origins(Sequence[str]):
    """The `file:line` of each sequence, made when it is asked for."""

    def __init__(self, prepared: "Prepared") -> None:
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self._prepared)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """One place, or several."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part, row = self._prepared.place(index)
        return part.table.origin_of(row)


class Prepared:
    """N sequences: number i is sequence `rows[i]` of part `parts[which[i]]`. A sequence may come more than once."""

    def __init__(self, parts: Sequence[Part], which: NDArray[np.int32], rows: Indexes) -> None:
        self.parts, self.which, self.rows = list(parts), which, rows

    def at(self, indexes: Indexes) -> "Prepared":
        """The sequences at these indexes."""
        return Prepared(self.parts, self.which[indexes], self.rows[indexes])

    def rows_of_parts(self) -> list[Indexes]:
        """Of each part, the numbers of its sequences that are in here."""
        return [self.rows[self.which == number] for number in range(len(self.parts))]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> tuple[Part, int]:
        """The part of sequence `index`, and its number there."""
        return self.parts[self.which[index]], int(self.rows[index])

    def ids(self, index: int) -> list[int]:
        """The tokens of sequence `index`."""
        part, row = self.place(index)
        return part.table.ids_of(row)

    def labels(self, index: int) -> list[int]:
        """Its labels: the id where a token is trained, -100 elsewhere."""
        part, row = self.place(index)
        return part.table.labels_of(row)

    def arrays(self, index: int) -> tuple[Indexes, Indexes]:
        """Both as arrays, which are quicker to make and to put together."""
        part, row = self.place(index)
        return part.table.arrays_of(row)

    @property
    def origins(self) -> Origins:
        """The `file:line` of each sequence."""
        return Origins(self)

    @property
    def lengths(self) -> Indexes:
        """Tokens of each sequence, shape (N,)."""
        return self._gathered([part.table.lengths for part in self.parts])

    @property
    def trained_counts(self) -> Indexes:
        """Trained tokens of each sequence, shape (N,)."""
        return self._gathered([part.table.trained_counts for part in self.parts])

    @property
    def keys(self) -> NDArray[np.uint64]:
        """A hash of each sequence's content: equal for exact duplicates, shape (N,)."""
        return self._gathered([part.table.keys for part in self.parts])

    @property
    def groups(self) -> NDArray[np.uint64]:
        """A hash of each row's value in the group column, shape (N,)."""
        return self._gathered([part.table.groups for part in self.parts])

    @property
    def scores(self) -> NDArray[np.float32]:
        """Margins of preferences, verdicts of feedback, places of classes; NaN without one, shape (N,)."""
        return self._gathered([part.table.scores for part in self.parts])

    def row_groups(self) -> NDArray[np.uint64]:
        """Equal for the pairs of one row, and for rows that share a value in the group column, shape (N,)."""
        rows = self.which.astype(np.uint64) << np.uint64(48) | self.numbers.astype(np.uint64)
        return np.where(self.groups != 0, self.groups, rows)

    @property
    def numbers(self) -> Indexes:
        """The number of each row in its source, from 0, shape (N,)."""
        return self._gathered([part.table.numbers for part in self.parts])

    @property
    def is_preference(self) -> bool:
        """Whether every sequence has a rejected counterpart."""
        return all(len(part.rejected) > 0 for part in self.parts)

    @property
    def has_verdicts(self) -> bool:
        """Whether rows are preferences or feedback: answers with a verdict on them."""
        return self.is_preference or any(bool((part.table.scores >= 0).any()) for part in self.parts)

    def rejected(self) -> "Prepared":
        """The rejected counterparts, in the same order."""
        sides = [replace(part, table=part.rejected) for part in self.parts]
        return Prepared(sides, self.which, self.rows)

    @property
    def counts(self) -> Counts:
        """What became of the rows: reading and dropping is counted of whole sources, tokens of these sequences."""
        counts = Counts.sum([part.counts for part in self.parts])
        counts.measure(self.lengths.tolist(), self.trained_counts.tolist())
        return counts

    @property
    def checks(self) -> list[Check]:
        """The invariants; each holds where it holds in every part."""
        return [_all(same) for same in zip(*(part.checks for part in self.parts), strict=True)]

    @property
    def format(self) -> str:
        """The names of the row formats."""
        return ", ".join(dict.fromkeys(part.format for part in self.parts))

    @property
    def reason(self) -> str:
        """Why they were taken."""
        return "; ".join(dict.fromkeys(part.reason for part in self.parts))

    @property
    def fingerprint(self) -> str:
        """xxh3_128: equal for equal sequences in the same order."""
        from xxhash import xxh3_128

        digest = xxh3_128("".join(part.fingerprint for part in self.parts).encode())
        digest.update(self.which.astype("<i4").tobytes())
        digest.update(self.rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def failed(self) -> list[Check]:
        """The checks that forbid training."""
        return [check for check in self.checks if not check.ok]

    def _gathered(self, columns: list[NDArray[Any]]) -> NDArray[Any]:
        """One value a sequence out of one column a part."""
        out = np.empty(len(self), columns[0].dtype if columns else np.int64)
        for number, column in enumerate(columns):
            here = self.which == number
            out[here] = column[self.rows[here]]
        return out


def _all(same: Sequence[Check]) -> Check:
    broken = [check for check in same if not check.ok]
    return Check(same[0].name, not broken, "; ".join(dict.fromkeys(check.detail for check in broken or same)))
