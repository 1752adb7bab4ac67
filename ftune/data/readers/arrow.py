"""Tables in batches: Parquet, the Arrow stream that `datasets` keeps, and the Arrow file, which is also Feather."""

from collections.abc import Iterator
from typing import Any

from ftune.core.errors import DataError
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import BadRow, Row

FILE_MARK = b"ARROW1"
ROWS = 1000
"""Rows that are Python objects at a time."""


def parquet_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """The rows in order; a row's `line` is its number. Raises DataError where none can be read."""
    return _rows(file.path, "Parquet", _parquet_batches(file))


def arrow_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """The rows in order; a row's `line` is its number. Raises DataError where none can be read."""
    return _rows(file.path, "Arrow", _arrow_batches(file))


def _rows(path: str, kind: str, batches: Iterator[Any]) -> Iterator[Row | BadRow]:
    from pyarrow import ArrowException

    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # damaged offsets would be read as they are, and end the process
            for start in range(0, batch.num_rows, ROWS):
                for values in batch.slice(start, ROWS).to_pylist():
                    number += 1
                    yield Row(values, path, number)
    except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:  # damaged lengths are huge
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        if not number:
            raise DataError(f"{path}: not a readable {kind} file: {cause}") from None
        yield BadRow(path, number, 0, f"the {kind} data is damaged or cut off behind this row: {cause}")


def _parquet_batches(file: DataFile) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    with file.binary() as binary, ParquetFile(binary) as table:
        yield from table.iter_batches(batch_size=ROWS)


def _arrow_batches(file: DataFile) -> Iterator[Any]:
    from pyarrow import PythonFile, ipc

    with file.binary() as binary:
        source = PythonFile(binary, mode="r")
        if not file.head.startswith(FILE_MARK):
            yield from ipc.open_stream(source)
            return
        table = ipc.open_file(source)
        for index in range(table.num_record_batches):
            yield table.get_batch(index)
