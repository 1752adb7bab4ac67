"""Where rows come from: files, folders, patterns, URLs or hub data sets; every row knows its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TypeAlias

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.readers.arrow import FILE_MARK, arrow_rows, parquet_rows
from ftune.data.readers.encoding import known_encoding
from ftune.data.readers.faults import strict as strict
from ftune.data.readers.files import SUPPORTED, data_files
from ftune.data.readers.hub import hub_rows
from ftune.data.readers.json_rows import json_rows
from ftune.data.readers.opening import DamagedError, DataFile
from ftune.data.readers.options import DEFAULT, Documents, Options
from ftune.data.readers.tables import csv_rows, tsv_rows
from ftune.data.readers.text import text_rows
from ftune.data.reference import is_hub_id, suffix_of
from ftune.data.row import BadRow as BadRow
from ftune.data.row import Row as Row

Rows: TypeAlias = Iterator[Row | BadRow]
Reader = Callable[[DataFile, Options], Rows]

READERS: Mapping[str, Reader] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".feather": arrow_rows,
    ".txt": text_rows,
}
"""File suffix to reader."""

MAGIC: Mapping[bytes, Reader] = {b"PAR1": parquet_rows, FILE_MARK: arrow_rows, b"\xff\xff\xff\xff": arrow_rows}
"""First bytes to reader: they count for more than the name."""

LFS_POINTER = b"version https://git-lfs.github.com/"
COLUMNS_LOOK_AT = 20


def read_rows(
    path: str,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    encoding: str | None = None,
    documents: Documents = "file",
    streaming: bool = False,
    remark: Callable[[str], None] | None = None,
) -> Rows:
    """The rows of a file, of all data files in a folder or behind a pattern (sorted by name), or of a hub data set.

    `columns` as a mapping renames, new name to old name, and other columns stay; as a list it names the columns of
    tables without a header line. `name` and `revision` are for hub sets, `split` also for one JSON object that wraps
    several splits. `encoding` is that of text files, told from their first bytes by default. `documents` says what one
    row of a .txt file is. `streaming` reads a hub set without fetching it first. `remark` is called with what was
    understood and may surprise. Raises DataError for what cannot be read as a whole; damaged rows are BadRows among
    the others.
    """
    options = replace(DEFAULT, split=split, documents=documents)
    rows: Rows
    if remark is not None:
        options = replace(options, remark=remark)
    if columns is not None and not isinstance(columns, Mapping):
        options = replace(options, names=_different(tuple(columns)))
    if encoding is not None:
        known_encoding(encoding)
    if not is_hub_id(path):
        rows = chain.from_iterable(_file_rows(file, options) for file in data_files(path, encoding))
    elif options.names:
        raise DataError(_has_names(path))
    else:
        rows = _whole(hub_rows(path, name=name, split=split, revision=revision, streaming=streaming), path)
    return _renamed(rows, columns) if isinstance(columns, Mapping) else rows


def _file_rows(file: DataFile, options: Options) -> Rows:
    reader = _reader_of(file)
    if options.names and reader not in (csv_rows, tsv_rows):
        raise DataError(_has_names(file.path))
    return _whole(reader(file, options), file.path)


def _reader_of(file: DataFile) -> Reader:
    """By the first bytes of binary files, else by suffix; where that says nothing, by the first character."""
    if file.head.startswith(LFS_POINTER):
        raise DataError(f"{file.path}: this is only a Git LFS pointer to the data; fetch it with: git lfs pull")
    for magic, reader in MAGIC.items():
        if file.head.startswith(magic):
            return reader
    if named := READERS.get(suffix_of(file.path)):
        return named
    if file.start.startswith(("[", "{")):
        return json_rows
    raise DataError(
        f"{file.path}: files of this kind are not supported, and it does not look like JSON, Parquet or Arrow; "
        f"{SUPPORTED}"
    )


def _whole(rows: Rows, path: str) -> Rows:
    """The rows, and behind the last a BadRow where compressed data is damaged. No row at all is a DataError."""
    row: Row | BadRow | None = None
    try:
        for row in rows:
            yield row
        damage = ""
    except DamagedError as error:
        damage = str(error)
    if row is None:
        raise DataError(f"{path}: {damage or 'there are no rows in it'}")
    if damage:
        yield BadRow(path, row.line, 0, damage)


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'columns' names '{twice}' more than once")
    return names


def _has_names(path: str) -> str:
    return (
        f"{path}: 'columns' as a list names the columns of .csv and .tsv files without a header line; these rows have "
        "names: write columns: {new name: old name} to change them"
    )


def _renamed(rows: Rows, columns: Mapping[str, str]) -> Rows:
    """Rows under their new column names. A column that none of the first rows has is a mistake."""
    first = list(islice(rows, COLUMNS_LOOK_AT))
    present = {key: None for row in first if isinstance(row, Row) for key in row.values}
    for old in columns.values():
        if present and old not in present:
            hint = did_you_mean(old, present).replace("; known:", "; it has:")
            raise DataError(f"{first[0].file}: there is no column '{old}' to rename{hint}")
    for row in chain(first, rows):
        if isinstance(row, BadRow):
            yield row
            continue
        kept = {key: value for key, value in row.values.items() if key not in columns.values()}
        new = {new: row.values[old] for new, old in columns.items() if old in row.values}
        yield Row(kept | new, row.file, row.line)
