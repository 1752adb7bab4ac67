"""CSV and TSV, with a header line or with names that the recipe gives."""

import csv
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from ftune.core.errors import DataError
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import MAX_ROW, Options
from ftune.data.row import BadRow, Row

MAX_FIELD = 1 << 27
"""Longest field; the csv module's own limit of 131,072 characters is too small for documents."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def csv_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """Fields quoted with double quotes, which may hold line ends; separated by what the first line has most of.

    A damaged row costs the line where it begins: reading goes on with the next one. Raises DataError for a header
    that gives a name twice.
    """
    with file.text(newline="") as text:
        lines = _Lines(text)
        first = lines.peek()
        delimiter = max(DELIMITERS, key=lambda mark: _columns(first, mark))
        if delimiter != ",":
            options.remark(f"{file.path}: the columns are separated by {DELIMITERS[delimiter]}")
        yield from _rows(file.path, lines, csv.reader(lines, delimiter=delimiter, strict=True), options)


def tsv_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """Separated by tabs. There is no quoting, as the media type says: a quote is a character like any other.

    Raises DataError for a header that gives a name twice.
    """
    with file.text(newline="") as text:
        lines = _Lines(text)
        yield from _rows(file.path, lines, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), options)


class _Lines:
    """The lines of a file for the csv module, which can be told to take those of a damaged row again but the first."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._taken: list[str] = []
        self._again: list[str] = []
        self.next = 1
        self.endless = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else "" if self.endless else self._file.readline(MAX_ROW)
        self.endless = self.endless or len(line) == MAX_ROW
        if not line or len(line) == MAX_ROW:
            raise StopIteration
        self._taken.append(line)
        self.next += 1
        return line

    def peek(self) -> str:
        """The first line that is not blank, without taking it."""
        first = next((line for line in self if line.strip()), "")
        self.begin_again(1)
        return first

    def begin_row(self) -> int:
        """The line of the row that comes next."""
        self._taken.clear()
        return self.next

    def begin_again(self, line: int) -> None:
        """Take the lines from `line` on again; it is one of those since the row began."""
        back = self.next - line
        self._again += reversed(self._taken[len(self._taken) - back :])
        del self._taken[len(self._taken) - back :]
        self.next = line


def _rows(path: str, lines: _Lines, reader: "Iterator[list[str]]", options: Options) -> Iterator[Row | BadRow]:
    csv.field_size_limit(max(MAX_FIELD, csv.field_size_limit()))
    names = list(options.names) if options.names else None
    while True:
        line = lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cause = f"broken quoting in the row that begins here ({error}); double the quotes inside quotes"
            yield BadRow(path, line, 0, cause)
            lines.begin_again(line + 1)
            continue
        if cells is None:
            break
        if cells and names is None:
            names = _header(path, cells, line)
        elif cells and names is not None and len(cells) == len(names):
            yield Row(dict(zip(names, cells, strict=True)), path, line)
        elif cells and names is not None:
            yield BadRow(path, line, 0, _wrong_width(cells, names, from_recipe=options.names is not None))
    if lines.endless:
        yield BadRow(path, lines.next, 0, f"a line of more than {MAX_ROW:,} characters; reading stopped")


def _columns(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _header(path: str, cells: list[str], line: int) -> list[str]:
    twice = [name for name, number in Counter(cells).items() if number > 1]
    if twice:
        raise DataError(f"{path}:{line}: the header names the column '{twice[0]}' more than once; rename one")
    return cells


def _wrong_width(cells: list[str], names: list[str], *, from_recipe: bool) -> str:
    found = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
    wanted = "'columns' names" if from_recipe else "the header has"
    return f"{found}, but {wanted} {len(names)} ({', '.join(names)}); quote fields that hold the delimiter"
