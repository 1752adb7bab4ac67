"""Parquet files."""

from collections.abc import Iterator

from ftune.core.errors import DataError
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import Row

BATCH = 1000


def parquet_rows(file: DataFile, options: Options) -> Iterator[Row]:
    """The rows in order, read batch by batch; a row's `line` is its number. Raises DataError."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with file.binary() as binary, ParquetFile(binary) as table:
            for batch in table.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, file.path, number)
    except (ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
