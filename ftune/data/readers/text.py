"""Plain text files: rows with the key `text`. What one row is, the recipe says."""

from collections.abc import Iterator
from itertools import groupby
from typing import TextIO

from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import MAX_ROW, Options
from ftune.data.row import BadRow, Row

PIECE = 1 << 20
"""Characters: a longer file is more than one row."""


def text_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """The file as one document, its paragraphs, or its lines, each with the line where it begins; none that is blank.

    A file of more than `PIECE` characters is cut at blank lines, or else at line ends or blanks; joined, the pieces are
    its text. Line ends become newlines. The number of lines is a remark.
    """
    with file.text() as text:
        if options.documents == "file":
            yield from _pieces(file.path, text, options)
            return
        lines = _Lines(text)
        for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
            if options.documents == "line":
                yield from (Row({"text": line.rstrip("\n")}, file.path, lines.read) for line in group if filled)
            else:
                begin = lines.read
                paragraph = "".join(group)
                if filled:
                    yield Row({"text": paragraph.rstrip("\n")}, file.path, begin)
        if lines.endless:
            yield BadRow(file.path, lines.read, 0, f"a line of more than {MAX_ROW:,} characters; reading stopped")
        options.remark(f"{file.path}: {lines.read:,} lines")


class _Lines:
    """The lines of a file, counted; the last is the one before a line that is too long to hold."""

    def __init__(self, file: TextIO) -> None:
        self._file, self.read, self.endless = file, 0, False

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW):
            self.read += 1
            if len(line) == MAX_ROW:
                self.endless = True
                return
            yield line


def _pieces(path: str, file: TextIO, options: Options) -> Iterator[Row]:
    text, line, cut = "", 1, 0
    while True:
        text = _filled(text[cut:], file)
        if not text.strip():
            break
        cut = _cut(text)
        yield Row({"text": text[:cut]}, path, line)
        line += text.count("\n", 0, cut)
        ended = text[cut - 1] == "\n"
    options.remark(f"{path}: {line - (line > 1 and ended):,} lines")


def _filled(text: str, file: TextIO) -> str:
    """More of the file behind `text`: until a piece and more is there, blanks around it apart, or to its end."""
    while len(text.strip()) <= PIECE and (chunk := file.read(PIECE)):
        text += chunk
    return text


def _cut(text: str) -> int:
    """Where the first piece ends, and the blanks behind it: the next one begins with something else."""
    begin = len(text) - len(text.lstrip())
    if len(text.strip()) <= PIECE:
        return len(text)
    ends = (text.rfind(mark, begin, begin + PIECE) for mark in ("\n\n", "\n", " "))
    cut = next((end for end in ends if end > begin), begin + PIECE)
    return len(text) - len(text[cut:].lstrip())
