"""Which row format a file has, and why: told from its first rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from ftune.core.errors import DataError
from ftune.core.variants import variants_of
from ftune.data.formats.base import RowFormat, quoted_keys
from ftune.data.row import Row

LOOK_AT = 20
"""How many rows are looked at: enough to meet a second layout, few enough to answer at once."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The format that was found and the reason, in words that a person can check."""

    format: RowFormat
    reason: str


def detect(rows: Sequence[Row]) -> Detected:
    """The one format that all of the first rows have."""
    if not rows:
        raise DataError("there are no rows to tell the format from")
    looked_at = rows[:LOOK_AT]
    first, reason = _format_of(looked_at[0])
    for row in looked_at[1:]:
        other, other_reason = _format_of(row)
        if other is not first:
            raise DataError(
                f"{row.origin}: this row looks like {other.name()} ({other_reason}), but {looked_at[0].origin} looks "
                f"like {first.name()} ({reason}); split the file, or name the layout with 'format:'"
            )
    where = f" in the first {len(looked_at)} rows" if len(looked_at) > 1 else ""
    unused = {key: None for row in looked_at for key in row.values if key not in first.keys + first.optional}
    return Detected(first(), reason + where + (f"; not used: {quoted_keys(tuple(unused))}" if unused else ""))


def _format_of(row: Row) -> tuple[type[RowFormat], str]:
    for cls in _known():
        if reason := cls.matches(row.values):
            return cls, reason
    known = "; ".join(f"{cls.name()} needs {quoted_keys(cls.keys)}" for cls in _known())
    found = quoted_keys(tuple(row.values)) if row.values else "no keys"
    raise DataError(
        f"{row.origin}: the layout of this row is not known: found {found}. {known}. "
        f"Rename columns in the recipe, for example 'columns: {{prompt: question, completion: answer}}'"
    )


def _known() -> list[type[RowFormat]]:
    return sorted(variants_of(RowFormat).values(), key=lambda cls: cls.rank)
