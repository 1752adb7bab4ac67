"""Damage as an error: reading goes on to its end or to the tenth bad row, and all of them are told at once."""

from collections.abc import Iterable, Iterator

from ftune.core.errors import DataError
from ftune.data.row import BadRow, Row

MAX_FAULTS = 10


def strict(rows: Iterable[Row | BadRow]) -> Iterator[Row]:
    """The rows. Raises DataError with the first ten bad ones, at the tenth or behind the last row."""
    faults: list[str] = []
    for row in rows:
        if isinstance(row, Row):
            yield row
            continue
        faults.append(f"{row.origin}: {row.cause}")
        if len(faults) == MAX_FAULTS:
            raise DataError("\n".join([*faults, f"{row.file}: reading stopped after {MAX_FAULTS} faults"]))
    if faults:
        raise DataError("\n".join(faults))
