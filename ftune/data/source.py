"""Where rows come from: a file, a folder of files or a hub data set; every row knows its place."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.readers.compressed import head_of
from ftune.data.readers.hub import hub_rows
from ftune.data.readers.json_rows import json_rows
from ftune.data.readers.lines import line_rows
from ftune.data.readers.parquet import parquet_rows
from ftune.data.readers.tables import csv_rows, tsv_rows
from ftune.data.reference import check_path, is_hub_id
from ftune.data.row import Row as Row

Reader = Callable[[Path], Iterator[Row]]

READERS: Mapping[str, Reader] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": line_rows,
}
"""File suffix to reader; all but Parquet may be compressed with gzip (`.jsonl.gz`, or under any name)."""

COLUMNS_LOOK_AT = 20


def read_rows(
    path: str,
    *,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[Row]:
    """The rows of a file, of all supported files in a folder (sorted by name), or of a hub data set.

    `columns` renames: new name to old name; other columns stay. `name`, `split` and `revision` are for hub sets.
    `limit` stops after so many rows. Raises DataError: what is damaged is named with file and line, ten at once.
    """
    if problem := check_path(path):
        raise DataError(problem)
    if is_hub_id(path):
        rows = hub_rows(path, name=name, split=split, revision=revision)
    else:
        rows = _local_rows(Path(path).expanduser())
    rows = islice(_not_empty(rows, path), limit)
    return _renamed(rows, columns) if columns else rows


def _local_rows(path: Path) -> Iterator[Row]:
    if not path.is_dir():
        return _reader_of(path)(path)
    files = sorted(file for file in path.rglob("[!.]*") if file.is_file() and _suffix(file) in READERS)
    if not files:
        raise DataError(f"{path}: this folder holds no data files; supported: {', '.join(READERS)}, also with .gz")
    return chain.from_iterable(_not_empty(_reader_of(file)(file), str(file)) for file in files)


def _reader_of(path: Path) -> Reader:
    """By suffix; where that says nothing, by the first bytes."""
    if reader := READERS.get(_suffix(path)):
        return reader
    head = head_of(path)
    if head.startswith("PAR1"):
        return parquet_rows
    if head.startswith(("[", "{")):
        return json_rows
    raise DataError(
        f"{path}: files of this kind are not supported, and it does not look like JSON or Parquet; "
        f"supported: {', '.join(READERS)}, also with .gz"
    )


def _suffix(path: Path) -> str:
    """The suffix that tells the kind of file: `.jsonl` for `rows.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def _not_empty(rows: Iterable[Row], path: str) -> Iterator[Row]:
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise DataError(f"{path}: there are no rows in it")


def _renamed(rows: Iterator[Row], columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows under their new column names. A column that none of the first rows has is a mistake."""
    first = list(islice(rows, COLUMNS_LOOK_AT))
    present = {key: None for row in first for key in row.values}
    for old in columns.values():
        if first and old not in present:
            hint = did_you_mean(old, present).replace("; known:", "; it has:")
            raise DataError(f"{first[0].file}: there is no column '{old}' to rename{hint}")
    for row in chain(first, rows):
        kept = {key: value for key, value in row.values.items() if key not in columns.values()}
        new = {new: row.values[old] for new, old in columns.items() if old in row.values}
        yield Row(kept | new, row.file, row.line)
