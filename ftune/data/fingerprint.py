"""What the files of a source hold, as one key: equal for equal bytes, another after any change."""

from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import DataError
from ftune.data.readers.files import data_files
from ftune.data.readers.hub import hub_fingerprint
from ftune.data.readers.opening import remote, unreachable
from ftune.data.reference import is_hub_id, is_remote

if TYPE_CHECKING:
    from xxhash import xxh3_128

CHUNK = 1 << 20
HTTP_MARKS = ("size", "ETag", "Last-Modified", "Content-MD5", "Digest")
"""What a server says about a file, if it says anything: fsspec's own key for a URL is the URL alone."""


def source_fingerprint(
    path: str,
    *,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    streaming: bool = False,
) -> str:
    """xxh3_128, in hexadecimal, of all that `read_rows` would read behind this path. Raises DataError like it.

    Of files here: their names, relative to the folder that they share, and their bytes; so a copy of a folder has the
    same key. Of remote files: their URLs and what the file system knows without reading them (fsspec's `ukey`, size,
    entity tag, time of change); a server that tells none of these is taken at its URL. Of hub data sets: the key of
    `datasets`, which follows from the commit, the configuration and the split.

    With `streaming`, for sets that are too large to be gone through before a run: of files their sizes, first and last
    MiB, of hub sets the commit, the configuration and the split. A change in the middle of a file is not seen.
    """
    from xxhash import xxh3_128

    digest = xxh3_128()
    if is_hub_id(path):
        _add(digest, hub_fingerprint(path, name=name, split=split, revision=revision, streaming=streaming))
        return str(digest.hexdigest())
    names = [file.path for file in data_files(path)]
    if is_remote(path):
        for file in names:
            _add(digest, *_remote_marks(file))
        return str(digest.hexdigest())
    shared = Path(commonpath([Path(file).parent for file in names]))
    for file in names:
        _add(digest, str(Path(file).relative_to(shared)))
        _add_bytes(digest, Path(file), ends_only=streaming)
    return str(digest.hexdigest())


def _add(digest: "xxh3_128", *texts: str) -> None:
    """Texts with their lengths: no two lists of texts give the same bytes."""
    for text in texts:
        encoded = text.encode(errors="surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)


def _add_bytes(digest: "xxh3_128", path: Path, *, ends_only: bool) -> None:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            if ends_only and size > 2 * CHUNK:
                digest.update(file.read(CHUNK))
                file.seek(size - CHUNK)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _remote_marks(url: str) -> list[str]:
    system, inner = remote(url)
    try:
        info = system.info(inner)
        return [url, str(system.ukey(inner)), *(str(info.get(mark)) for mark in HTTP_MARKS)]
    except Exception as error:  # every file system raises its own kinds; all are the user's to solve
        raise unreachable(url, error) from None
