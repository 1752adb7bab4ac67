"""`key.path=value` arguments: recipe values from the command line."""

import re
from collections.abc import Sequence

from ftune.core.section import Location
from ftune.core.yaml import Document, Fault, Mark, parse_yaml

_YAML_SIGNS = "*&!%@`|>"
"""What begins an alias, an anchor, a tag, a directive or a block: of no use in one value."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Set each `key.path=value` in the document, in order; the last one wins.

    Values are read by the recipe's own YAML rules (`optim.learning_rate=1e-4`, `data.train=[a.jsonl, b.jsonl]`);
    list items are named by index (`data.train.0.weight=2` or `data.train[0].weight=2`). Faults go to the document.
    """
    for number, override in enumerate(overrides, start=1):
        mark = Mark(f"<override {number}>")
        key, equals, text = override.partition("=")
        place = _place(key.strip())
        if not equals or not place:
            document.faults.append(Fault(mark, f"'{override}' is not of the form key.path=value"))
            continue
        if text and text[0] in _YAML_SIGNS:
            way = f"{key}='\"{text}\"'"
            document.faults.append(
                Fault(mark, f"{key}: '{text[0]}' begins no text in YAML; put quotes in quotes: {way}")
            )
            continue
        value = parse_yaml(text, str(mark))
        document.faults += [Fault(mark, f"{key}: {fault.message}") for fault in value.faults]
        if not value.faults:
            _set(document, place, value.value, mark)


def _place(key: str) -> Location:
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return tuple(int(part) if part.isdecimal() else part for part in parts) if all(parts) else ()


def _set(document: Document, place: Location, value: object, mark: Mark) -> None:
    if document.value is None:
        document.value = {}
    node = document.value
    for depth, part in enumerate(place):
        last = depth == len(place) - 1
        parent, key = node, part
        if isinstance(parent, list) and isinstance(key, int) and key < len(parent):
            child = parent[key]
        elif isinstance(parent, dict):
            key = str(key)
            child = parent.get(key)
        else:
            where = ".".join(map(str, place[:depth]))
            found = f"a list of {len(parent)}" if isinstance(parent, list) else f"the single value {parent!r}"
            message = f"'{where}' is {found}, so '{part}' cannot be set in it; set '{where}' as a whole"
            document.faults.append(Fault(mark, message))
            return
        child = value if last else opened(document, place[: depth + 1], child)
        parent[key] = child  # type: ignore[index]
        node = child
    forget_below(document, place)
    for depth in range(1, len(place) + 1):
        document.marks.setdefault(place[:depth], mark)
    document.marks[place] = mark


def opened(document: Document, place: Location, value: object) -> object:
    """Make room for a deeper key: nothing becomes a mapping, a variant's bare name becomes `{type: name}`."""
    if value is None:
        return {}
    if isinstance(value, str) and _NAME.fullmatch(value):
        if place in document.marks:
            document.marks[*place, "type"] = document.marks[place]
        return {"type": value}
    return value


def forget_below(document: Document, place: Location) -> None:
    """Drop the marks of everything below a place whose value was replaced."""
    for known in [known for known in document.marks if len(known) > len(place) and known[: len(place)] == place]:
        del document.marks[known]
