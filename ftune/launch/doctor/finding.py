"""A finding: how good or bad it is, what it is about, what was seen, and what to do."""

import getpass
import re
from dataclasses import dataclass
from typing import Literal

from ftune.core.paths import home_dir

Level = Literal["ok", "warning", "error"]

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    """`error`: something will not work. `warning`: it will be slow, wrong in places, or cannot be told."""
    area: str
    """One word: gpu, torch, disk, ..."""
    text: str
    """What was found."""
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


def ok(area: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", area, text)


def warning(area: str, text: str, remedy: str = "") -> Finding:
    """It works, but a person should know."""
    return Finding("warning", area, text, remedy)


def error(area: str, text: str, remedy: str = "") -> Finding:
    """It will not work."""
    return Finding("error", area, text, remedy)


def size(count: float) -> str:
    """A number of bytes in words: `64 MiB`, `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def without_names(text: str, home: str | None = None, user: str | None = None) -> str:
    """The text with the home folder as `~` and the user's name in other paths as `$USER`.

    A report is made to be pasted where others read it.
    """
    home = str(home_dir() or "") if home is None else home
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?=/|\W|$)", "~", text)
    try:
        user = getpass.getuser() if user is None else user
    except (KeyError, OSError):  # a container with a user that has no name
        return text
    return re.sub(rf"(?<=/){re.escape(user)}(?=/|\W|$)", "$USER", text)
