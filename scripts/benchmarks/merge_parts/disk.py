"""The disk: its own speed for the same files, and files made cold, so that every way begins alike."""

import os
import time
from pathlib import Path

PIECE = 8 * 2**20


def files_of(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in files_of(folder))


def make_durable(folder: Path) -> float:
    """Have everything in a folder on the disk; the seconds that it took."""
    started = time.monotonic()
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    return time.monotonic() - started


def make_cold(folder: Path) -> None:
    """Let the system forget the content of a folder's files, so that they are read from the disk."""
    make_durable(folder)  # pages that wait to be written would stay
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_durably(source: Path, target: Path) -> float:
    """Copy a folder's weights, with the next piece on its way from the disk meanwhile; the seconds until all is there.

    That is what no way of merging can be faster than.
    """
    target.mkdir(parents=True)
    buffer, started = bytearray(PIECE), time.monotonic()
    for file in sorted(source.glob("*.safetensors")):
        with file.open("rb") as read, (target / file.name).open("wb") as written:
            while count := read.readinto(buffer):
                os.posix_fadvise(read.fileno(), read.tell(), 4 * PIECE, os.POSIX_FADV_WILLNEED)
                written.write(memoryview(buffer)[:count])
    make_durable(target)
    return time.monotonic() - started
