"""What to say about a row whose layout is not known."""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from ftune.data.formats.base import RowFormat, Values, quoted_keys
from ftune.data.row import Row

NEAREST = 3
"""So many layouts are described; all are named."""

LONGEST_KEY = 60
"""In characters."""


def unknown_layout(row: Row, known: Sequence[type[RowFormat]]) -> str:
    """What was found, the layouts that come nearest, and a `columns:` line made of the row's own keys."""
    found = quoted_keys(tuple(row.values)) if row.values else "no keys"
    nearest = sorted(known, key=lambda cls: (-_likeness(cls, row.values), cls.rank))[:NEAREST]
    return "\n".join(
        [
            f"{row.origin}: the layout of this row is not known: found {found}",
            f"nearest: {'; '.join(f'{cls.name()} needs {quoted_keys(cls.keys)}' for cls in nearest)}",
            f"known: {', '.join(sorted(cls.name() for cls in known))}",
            _advice(row.values),
        ]
    )


def _likeness(cls: type[RowFormat], row: Values) -> float:
    """How near the needed keys are to keys of this row: 1 where all are there."""
    return sum(
        max((_alike(name, key) for key in row for name in _names(cls, wanted)), default=0.0) for wanted in cls.keys
    ) / len(cls.keys)


def _names(cls: type[RowFormat], key: str) -> Iterable[str]:
    return cls.names.get(key, (key,))


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.strip().lower()[:40]).ratio()


def _advice(row: Values) -> str:
    """How to name the columns. Keys that are sentences or numbers come from a file whose first line is no header."""
    if any(key.strip().isdigit() or len(key) > LONGEST_KEY for key in row):
        return "if the file has no header line, name its columns in the recipe, for example 'columns: [text, label]'"
    return _renaming(row)


def _renaming(row: Values) -> str:
    """The two longest texts are the likeliest question and answer, in the order in which they stand."""
    texts = {key: value for key, value in row.items() if isinstance(value, str) and re.search(r"[^\W\d]", value)}
    longest = sorted(texts, key=lambda key: -len(texts[key]))[:2]
    chosen = [key for key in texts if key in longest]
    if not chosen:
        return "no column of this row holds text that could be trained on"
    new = ("user", "assistant") if len(chosen) == 2 else ("text",)
    pairs = ", ".join(f"{name}: {_quoted(key)}" for name, key in zip(new, chosen, strict=True))
    return f"rename columns in the recipe, for example 'columns: {{{pairs}}}'"


def _quoted(key: str) -> str:
    """The key as YAML reads it."""
    return key if re.fullmatch(r"[^\W\d][\w-]*( [\w-]+)*", key) else json.dumps(key)
