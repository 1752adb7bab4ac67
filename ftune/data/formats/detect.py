"""Which row format a file has, and why: told from its first rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ftune.core.errors import DataError
from ftune.core.variants import variants_of
from ftune.data.example import Example, Skipped
from ftune.data.formats.base import RowFormat, Values, quoted_keys
from ftune.data.formats.unknown import unknown_layout
from ftune.data.row import Row

LOOK_AT = 20
"""How many rows are looked at: enough to meet a second layout, few enough to answer at once."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The format of a source and the reason, in words that a person can check. Reads its rows."""

    format: RowFormat
    reason: str
    tidy: bool = False
    """Whether keys are read in small letters, without blanks around and with underscores inside."""

    def read(self, values: Values) -> Example | Skipped:
        """The row's meaning. Raises DataError without file and line, which the caller knows."""
        return self.format.to_example(self.tidied(values))

    def tidied(self, values: Values) -> Values:
        """The row with the keys that the format knows."""
        return _tidied(values) if self.tidy else values


def detect(rows: Sequence[Row], *, tolerant: bool = False) -> Detected:
    """The one format that the first rows have; rows that fit no format at all are left to be refused when read.

    Rows of two formats are an error; `tolerant` takes the format that most of them have instead, and says so.
    """
    if not rows:
        raise DataError("there are no rows to tell the format from")
    looked_at = rows[:LOOK_AT]
    found, tidy = _formats_of(looked_at, tidy=False), False
    if not found and (found := _formats_of(looked_at, tidy=True)):
        tidy = True
    if not found:
        raise DataError(unknown_layout(looked_at[0], _known()))
    first, reason, _ = found[0]
    if tolerant:
        [(first, _)] = Counter(cls for cls, _, _ in found).most_common(1)
        reason = next(why for cls, why, _ in found if cls is first)
    else:
        _refuse_mixture(found)
    return Detected(first(), reason + _remarks(looked_at, found, first, tidy), tidy)


def named(format: RowFormat, rows: Sequence[Row]) -> Detected:
    """A format that the recipe names, with the keys of the first rows as they stand, or tidied where only this fits."""
    looked_at = [row.values for row in rows[:LOOK_AT]]
    fits = any(format.matches(values) for values in looked_at)
    tidy = not fits and any(format.matches(_tidied(values)) for values in looked_at)
    return Detected(format, "named in the recipe" + (_TIDIED if tidy else ""), tidy)


_TIDIED = "; capitals, blanks and dashes in the keys do not count"

Found = list[tuple[type[RowFormat], str, Row]]
"""Formats of rows, with the reasons."""


def _formats_of(rows: Sequence[Row], *, tidy: bool) -> Found:
    found: Found = []
    for row in rows:
        values = _tidied(row.values) if tidy else row.values
        fitting = ((cls, reason, row) for cls in _known() if cls.detected and (reason := cls.matches(values)))
        found += [match for match in [next(fitting, None)] if match]
    return found


def _refuse_mixture(found: Found) -> None:
    first, reason, first_row = found[0]
    for other, other_reason, row in found[1:]:
        if other is not first:
            raise DataError(
                f"{row.origin}: this row looks like {other.name()} ({other_reason}), but {first_row.origin} looks "
                f"like {first.name()} ({reason}); split the file, name the layout with 'data.format', or leave out "
                "the rows of the rarer layout with 'data.on_bad_row: drop'"
            )


def _remarks(rows: Sequence[Row], found: Found, taken: type[RowFormat], tidy: bool) -> str:
    """In how many of the first rows the format was found, and which of their keys have no use."""
    fitting = [_tidied(row.values) if tidy else row.values for cls, _, row in found if cls is taken]
    where = f" in the first {len(rows)} rows" if len(rows) > 1 else ""
    if len(fitting) < len(rows):
        where = f" in {len(fitting)} of the first {len(rows)} rows"
    unused = {key: None for values in fitting for key in values if key not in taken.used(values)}
    return where + (_TIDIED if tidy else "") + (f"; not used: {quoted_keys(tuple(map(str, unused)))}" if unused else "")


def _tidied(values: Values) -> Values:
    """The row with keys in small letters, without blanks around and with underscores for blanks and dashes inside.

    A row of which two keys would become one stays as it is: which of them was meant is not for us to say.
    """
    tidy = {key.strip().lower().replace(" ", "_").replace("-", "_"): value for key, value in values.items()}
    return tidy if len(tidy) == len(values) else values


def _known() -> list[type[RowFormat]]:
    return sorted(variants_of(RowFormat).values(), key=lambda cls: cls.rank)
