"""Opening data files, here or remote: compression and encoding by their first bytes, whatever the name says."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TextIO, cast

from ftune.core.errors import DataError
from ftune.data.readers.encoding import encoding_of, errors_of
from ftune.data.reference import is_remote

CODECS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
HEAD = 1 << 14
DAMAGE = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""What the decompressors raise."""


class DamagedError(Exception):
    """The compressed data ends too early or is broken; what came before it has been read."""


@dataclass(frozen=True)
class DataFile:
    """One file or URL. `encoding` None tells it from the first bytes; then anything that is not marked is UTF-8."""

    path: str
    encoding: str | None = None

    @cached_property
    def codec(self) -> str:
        """The compression; empty where there is none."""
        with self._raw() as file:
            start = file.read(16)
        return next((codec for codec, magic in CODECS.items() if magic.match(start)), "")

    @cached_property
    def head(self) -> bytes:
        """The first bytes, decompressed; what can be had of them."""
        with self._bytes() as file:
            return file.read(HEAD)

    @property
    def start(self) -> str:
        """The first characters that are not blank, for telling the kind of a file."""
        return self.head[:256].decode(encoding_of(self.head, self.encoding), errors="replace").lstrip()

    @contextmanager
    def text(self, newline: str | None = None) -> Iterator[TextIO]:
        """The file as text; bytes that are no text are U+DC80 to U+DCFF, as Python's surrogateescape has it.

        Raises DataError where it cannot be read, and DamagedError at the end of what could be decompressed.
        """
        encoding = encoding_of(self.head, self.encoding)
        with self._bytes() as file:
            yield io.TextIOWrapper(file, encoding=encoding, errors=errors_of(encoding), newline=newline)
            if damage := getattr(file, "damage", ""):
                raise DamagedError(damage)

    @contextmanager
    def binary(self) -> Iterator[IO[bytes]]:
        """The bytes, seekable; compressed ones are decompressed in memory. Raises DataError."""
        with self._bytes() as file:
            yield io.BytesIO(file.read()) if self.codec else file

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        if not self.codec:
            with self._raw() as file:
                yield file
            return
        with self._raw() as file, _decompressor(self.codec, file) as plain:
            yield cast(IO[bytes], _Undamaged(plain, self.codec))

    @contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        if is_remote(self.path):
            with _open_remote(self.path) as file:
                yield file
            return
        try:
            with Path(self.path).open("rb") as file:
                yield file
        except OSError as error:
            if error.errno is None:  # of a decoder, not of the system
                raise
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


def remote(path: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it. Raises DataError where it cannot be reached."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        system, inner = url_to_fs(path)
    except Exception as error:  # every file system raises its own kinds; all are the user's to solve
        raise unreachable(path, error) from None
    return system, str(inner)


def unreachable(path: str, error: Exception) -> DataError:
    """What to say where a remote file system fails."""
    words = (str(error).splitlines() or [""])[0]
    return DataError(f"{path}: cannot be read: {type(error).__name__}: {words}")


@contextmanager
def _open_remote(path: str) -> Iterator[IO[bytes]]:
    system, inner = remote(path)
    try:
        file = system.open(inner, "rb")
    except Exception as error:  # as above
        raise unreachable(path, error) from None
    with file:
        try:
            yield file
        except OSError as error:
            raise unreachable(path, error) from None


def _decompressor(codec: str, file: IO[bytes]) -> Any:
    match codec:
        case "gzip":
            return gzip.open(file)
        case "bzip2":
            return bz2.open(file)
        case "xz":
            return lzma.open(file)
        case _:
            import pyarrow as pa

            return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)


class _Undamaged(io.BufferedIOBase):
    """Decompressed bytes up to where the data is broken: there the file ends, and `damage` says why."""

    def __init__(self, file: Any, codec: str) -> None:
        self._file, self._codec, self.damage = file, codec, ""

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        """What one step of the decompressor gives; nothing of it is lost when the next one fails."""
        if self.damage:
            return b""
        try:
            return cast(bytes, self._file.read1(size if size > 0 else HEAD))
        except DAMAGE as error:
            self.damage = f"the {self._codec} data is damaged or cut off here ({error}); get the file again"
            return b""

    def read(self, size: int | None = -1, /) -> bytes:
        parts, left = [], size if size is not None and size >= 0 else None
        while left != 0 and (part := self.read1(HEAD if left is None else left)):
            parts.append(part)
            left = None if left is None else left - len(part)
        return b"".join(parts)
