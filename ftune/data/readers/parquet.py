"""Parquet files."""

from collections.abc import Iterator
from pathlib import Path

from ftune.core.errors import DataError
from ftune.data.row import Row


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows in order, read group by group; a row's `line` is its number."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, str(path), number)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
