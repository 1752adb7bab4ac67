"""CSV and TSV with a header line."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftune.core.errors import DataError
from ftune.data.readers.compressed import open_text
from ftune.data.readers.faults import Faults
from ftune.data.row import Row

MAX_FIELD = 1 << 27
"""Longest field; the csv module's own limit of 131,072 characters is too small for documents."""


def csv_rows(path: Path) -> Iterator[Row]:
    """Comma-separated, quoted with double quotes, which may hold line ends."""
    return _table_rows(path, {"delimiter": ",", "strict": True})


def tsv_rows(path: Path) -> Iterator[Row]:
    """Tab-separated. There is no quoting, as the media type says: a quote is a character like any other."""
    return _table_rows(path, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _table_rows(path: Path, dialect: dict[str, Any]) -> Iterator[Row]:
    csv.field_size_limit(max(MAX_FIELD, csv.field_size_limit()))
    with open_text(path, newline="") as file:
        reader, faults, line = csv.reader(file, **dialect), Faults(path), 1
        header: list[str] | None = None
        try:
            for cells in reader:
                if cells and header is None:
                    header = _header(path, cells, line)
                elif cells and header is not None and len(cells) == len(header):
                    yield Row(dict(zip(header, cells, strict=True)), str(path), line)
                elif cells and header is not None:
                    faults.add(str(line), _wrong_width(cells, header))
                line = reader.line_num + 1
        except csv.Error as error:
            faults.add(
                str(line), f"broken quoting in the row that begins here ({error}); double the quotes inside quotes"
            )
        faults.finish()


def _header(path: Path, cells: list[str], line: int) -> list[str]:
    twice = [name for name, number in Counter(cells).items() if number > 1]
    if twice:
        raise DataError(f"{path}:{line}: the header names the column '{twice[0]}' more than once; rename one")
    return cells


def _wrong_width(cells: list[str], header: list[str]) -> str:
    found = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
    return f"{found}, but the header has {len(header)} ({', '.join(header)}); quote fields that hold the delimiter"
