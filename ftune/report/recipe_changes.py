"""In what two recipes differ, and whether a run may go on with such a difference."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

Change = tuple[str, Any, Any]
"""A dotted key, the old value, the new value."""

MAY_CHANGE = (
    "output_dir", "extends", "log", "checkpoint", "eval", "backend", "batch",
    "schedule.epochs", "schedule.max_steps", "schedule.iterations",
)  # fmt: skip
"""Recipe keys that a resumed run may have changed: they alter what is shown or kept, how long it goes on, or where it
computes. Whether a step still has as many rows is checked where that is known."""

UNLESS_GIVEN_EPOCHS = 3.0
"""Passes over the training rows where a recipe of `sft` or `rm` gives no length."""


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[Change]:
    """Keys whose values differ between two resolved recipes; lists are compared as wholes."""
    found: list[Change] = []
    for key in dict.fromkeys([*old, *new]):
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{name}.")
        elif before != after:
            found.append((name, before, after))
    return found


def forbidden_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a resumed run may not have changed, each in words: `data.train[0].path: was 'a.jsonl', is 'b.jsonl'`."""
    return [
        f"{name}: was {_shown(before)}, is {_shown(after)}"
        for change in changes(old, new)
        if not any(change[0] == key or change[0].startswith(f"{key}.") for key in MAY_CHANGE)
        for name, before, after in _innermost(change)
    ]


def trains_longer(old: dict[str, Any], new: dict[str, Any], last_step: int) -> bool:
    """Whether a recipe trains for longer than the one of a finished run, whose last checkpoint is of `last_step`.

    Whether epochs are more than the steps of before, only the rows can tell; it is taken for granted.
    """
    before, after = old.get("schedule") or {}, new.get("schedule") or {}
    for key in ("iterations", "max_steps"):
        if before.get(key) and after.get(key):
            return bool(after[key] > before[key])
    if after.get("max_steps"):
        return bool(after["max_steps"] > last_step)
    if before.get("max_steps"):
        return True
    return bool((after.get("epochs") or UNLESS_GIVEN_EPOCHS) > (before.get("epochs") or UNLESS_GIVEN_EPOCHS))


def _innermost(change: Change) -> Iterator[Change]:
    """A change, or those inside of it where it is one of a list of sections."""
    name, before, after = change
    if isinstance(before, dict) and isinstance(after, dict):
        for inner in changes(before, after, f"{name}."):
            yield from _innermost(inner)
    elif _sections(before) and _sections(after):
        for index, (one, other) in enumerate(zip_longest(before, after)):
            if one != other:
                yield from _innermost((f"{name}[{index}]", one, other))
    else:
        yield change


def _sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _shown(value: Any) -> str:
    """A value as YAML has it in one line; of a section only what is set."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)
