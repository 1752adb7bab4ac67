"""Arrow files: the IPC stream that `datasets` keeps, and the IPC file, which is also Feather."""

from collections.abc import Iterator
from typing import Any

from ftune.core.errors import DataError
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import BadRow, Row

FILE_MARK = b"ARROW1"
ROWS = 1000


def arrow_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """The rows in order, read batch by batch; a row's `line` is its number. Raises DataError where none can be read."""
    import pyarrow as pa

    number = 0
    try:
        with file.binary() as binary:
            for batch in _batches(pa.PythonFile(binary, mode="r"), file.head.startswith(FILE_MARK)):
                for start in range(0, batch.num_rows, ROWS):
                    for values in batch.slice(start, ROWS).to_pylist():
                        number += 1
                        yield Row(values, file.path, number)
    except (pa.ArrowException, OSError) as error:
        cause = (str(error).splitlines() or [""])[0]
        if not number:
            raise DataError(f"{file.path}: not a readable Arrow file: {cause}") from None
        yield BadRow(file.path, number, 0, f"the Arrow data is damaged or cut off behind this row: {cause}")


def _batches(source: object, is_file: bool) -> Iterator[Any]:
    from pyarrow import ipc

    if is_file:
        table = ipc.open_file(source)
        yield from (table.get_batch(index) for index in range(table.num_record_batches))
    else:
        yield from ipc.open_stream(source)
