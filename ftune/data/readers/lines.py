"""Plain text files: one line that is not blank is one row with the key `text`."""

from collections.abc import Iterator
from pathlib import Path

from ftune.data.readers.compressed import open_text
from ftune.data.row import Row


def line_rows(path: Path) -> Iterator[Row]:
    """The lines, without their line ends."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Row({"text": line.rstrip("\n")}, str(path), number)
