"""A row as it was read, with the place it came from; or the place where no row could be read, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one file.

    `line` counts from 1. It is the line of the file where the row begins (JSON, CSV, TSV, text), and the number of the
    row where a file has no lines (Parquet, Arrow, hub data sets).
    """

    values: dict[str, object]
    file: str
    line: int

    @property
    def origin(self) -> str:
        """`file:line`, the way every message names a row."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """What stands where a row should: reading can go on behind it.

    `column` is 0 where the damage has no column.
    """

    file: str
    line: int
    column: int
    cause: str

    @property
    def origin(self) -> str:
        """`file:line`, or `file:line:column`."""
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"
