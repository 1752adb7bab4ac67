"""Markdown in which texts from elsewhere can do no harm: escaped, and without secrets."""

import re
from collections.abc import Mapping

from ftune.core.paths import home_dir
from ftune.report.events import redact


def table(title: str, rows: Mapping[str, object]) -> str:
    """A table of two columns, without the rows that have no value; empty without rows."""
    lines = [f"| {escape(name)} | {escape(str(value))} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join([f"| {title} | |", "| :-- | --: |", *lines]) if lines else ""


def escape(text: str) -> str:
    """`text` in one line, with nothing left that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!])", r"\\\1", " ".join(private(text).split()))


def code(text: str) -> str:
    """`text` as code in a line."""
    text = " ".join(private(text).split())
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def block(language: str, text: str) -> str:
    """`text` as a block of code."""
    ticks = "`" * max(_longest_run(text) + 1, 3)
    return f"{ticks}{language}\n{private(text).strip()}\n{ticks}"


def private(text: str) -> str:
    """`text` without secrets, and with `~` for the home folder, which often holds a user's name."""
    home = str(home_dir() or "/")
    return redact(text) if home == "/" else redact(text).replace(home, "~")  # `/` in some containers


def _longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
