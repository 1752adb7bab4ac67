"""A row as it was read, with the place it came from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one file.

    `line` counts from 1. It is the line of the file where the row begins (JSON, CSV, TSV, text), and the number of the
    row where a file has no lines (Parquet, hub data sets).
    """

    values: dict[str, object]
    file: str
    line: int

    @property
    def origin(self) -> str:
        """`file:line`, the way every message names a row."""
        return f"{self.file}:{self.line}"
