"""Where ftune looks for files and keeps its cache."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftune.core.errors import StorageError


def cache_dir() -> Path:
    """The folder for downloaded and converted models: $FTUNE_CACHE, else $XDG_CACHE_HOME/ftune, else ~/.cache/ftune."""
    if own := os.environ.get("FTUNE_CACHE"):
        return expanded(own)
    return user_cache() / "ftune"


@contextmanager
def in_cache() -> Iterator[None]:
    """A disk that fails while something is put into the cache is told with the way out. Raises StorageError."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}. This is ftune's cache, which FTUNE_CACHE puts into another folder") from error


def user_cache() -> Path:
    """$XDG_CACHE_HOME, else ~/.cache. Raises StorageError where the user has no home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    if (home := home_dir()) is None:
        raise StorageError("this user has no home folder to keep a cache in; set FTUNE_CACHE to a folder")
    return home / ".cache"


def home_dir() -> Path | None:
    """The user's home; None where there is neither a HOME nor a user of this number, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | Path) -> Path:
    """A path with the home that `~` or `~user` at its beginning stands for; as it is where nobody knows that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def find_file(path: str, folders: Iterable[Path]) -> Path | None:
    """The first existing `folder / path`; an absolute or `~` path is taken as it is."""
    given = expanded(path)
    candidates = [given] if given.is_absolute() else [folder / given for folder in folders]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def shown(path: Path) -> str:
    """A path as a person would type it here: relative to the working folder when below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
