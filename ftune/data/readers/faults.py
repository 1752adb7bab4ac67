"""Collecting damage: a file is read to its end or to the tenth fault, and all of them are told at once."""

from pathlib import Path

from ftune.core.errors import DataError

MAX_FAULTS = 10


class Faults:
    """The faults of one file. `add` raises at the tenth, `finish` where there was any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def add(self, place: str, cause: str) -> None:
        """Note what is wrong at `place`, a line or `line:column`."""
        self._lines.append(f"{self._path}:{place}: {cause}")
        if len(self._lines) == MAX_FAULTS:
            raise DataError("\n".join([*self._lines, f"{self._path}: reading stopped after {MAX_FAULTS} faults"]))

    def finish(self) -> None:
        """Raise what was noted, if anything was."""
        if self._lines:
            raise DataError("\n".join(self._lines))
