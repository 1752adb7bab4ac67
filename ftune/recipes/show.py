"""A resolved recipe for people: every value with where it was set."""

import json

from ftune.core.section import Location
from ftune.core.yaml import dotted
from ftune.recipes.load import Loaded


def resolved_with_origins(loaded: Loaded) -> str:
    """One line a value: `key: value  # origin`, in the order of the schema."""
    lines: list[tuple[str, str]] = []
    _walk((), loaded.recipe.resolved(), lines, loaded)
    width = min(60, max(len(left) for left, _ in lines))
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in lines)


def _walk(place: Location, value: object, lines: list[tuple[str, str]], loaded: Loaded) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _walk((*place, key), item, lines, loaded)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            _walk((*place, index), item, lines, loaded)
    else:
        lines.append((f"{dotted(place)}: {json.dumps(value, ensure_ascii=False)}", loaded.origin(place)))
