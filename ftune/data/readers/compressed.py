"""Opening data files: gzip by its first bytes, the encoding by its byte order mark, damage with its place."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TextIO, cast

from ftune.core.errors import DataError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CHUNK = 1 << 16


def is_gzip(path: Path) -> bool:
    """Whether the file is compressed, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def head_of(path: Path) -> str:
    """The first characters, blanks apart, for telling the kind of a file; never an error."""
    try:
        with _open_bytes(path) as file:
            return file.read(256).decode(_encoding(path), errors="replace").lstrip()
    except (OSError, EOFError, zlib.error):
        return ""


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The file as text: UTF-8, or what its byte order mark says. Wrong bytes and broken gzip are DataErrors."""
    try:
        with _open_bytes(path) as raw:
            yield TextIOWrapper(raw, encoding=_encoding(path), newline=newline)
    except UnicodeDecodeError as error:
        raise DataError(_misencoded(path, error)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data is damaged or cut off ({error}); get the file again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if is_gzip(path) else path.open("rb")


def _encoding(path: Path) -> str:
    with _open_bytes(path) as file:
        head = file.read(4)
    return next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), "utf-8")


def _misencoded(path: Path, error: UnicodeDecodeError) -> str:
    """Reads again, to say where the bad byte is: the decoder of a text file only knows its own buffer."""
    encoding, offset, line = _encoding(path), 0, 1
    decoder = codecs.getincrementaldecoder(encoding)()
    with _open_bytes(path) as file:
        while chunk := file.read(CHUNK):
            pending = len(decoder.getstate()[0])
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as found:
                line += found.object[: found.start].count(b"\n")
                at = offset - pending + found.start
                return (
                    f"{path}:{line}: byte 0x{found.object[found.start]:02x} at offset {at:,} is not {encoding.upper()} "
                    f"text ({found.reason}); save the file as UTF-8 (was it Latin-1 or Windows-1252?)"
                )
            offset += len(chunk)
    return f"{path}: not {encoding.upper()} text: {error.reason} at its end; the file is cut off"
