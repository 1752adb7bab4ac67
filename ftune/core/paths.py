"""Where ftune looks for files and keeps its cache."""

import os
from collections.abc import Iterable
from pathlib import Path


def cache_dir() -> Path:
    """The folder for downloaded and converted models: $FTUNE_CACHE, else $XDG_CACHE_HOME/ftune, else ~/.cache/ftune."""
    if own := os.environ.get("FTUNE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftune"


def find_file(path: str, folders: Iterable[Path]) -> Path | None:
    """The first existing `folder / path`; an absolute or `~` path is taken as it is."""
    given = Path(path).expanduser()
    candidates = [given] if given.is_absolute() else [folder / given for folder in folders]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def shown(path: Path) -> str:
    """A path as a person would type it here: relative to the working folder when below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
