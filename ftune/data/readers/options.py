"""How a file is to be read, where the file itself does not say it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Documents: TypeAlias = Literal["file", "blank_line", "line"]
"""What one row of a text file is."""

MAX_ROW = 1 << 28
"""Characters; a longer row, or a line without an end, is not read into memory."""


def _unheard(remark: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the recipe says about a source; each reader takes what concerns it."""

    names: tuple[str, ...] | None = None
    """Names of the columns of a table without a header line."""
    documents: Documents = "file"
    split: str = "train"
    """Which rows, where one file holds several splits."""
    remark: Callable[[str], None] = _unheard
    """Called with what was understood and may surprise, a sentence each, with the file's name."""


DEFAULT = Options()
