"""A moment of a run, and what is in the device's memory then."""

from collections.abc import Mapping
from dataclasses import dataclass

Parts = Mapping[str, int]
"""Bytes by the name of what they hold."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a run, with everything that is in the device's memory then."""

    name: str
    parts: Parts

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def phase(name: str, *parts: Parts) -> Phase:
    """A phase of several groups of parts, added up by name; what is empty is left out."""
    total: dict[str, int] = {}
    for group in parts:
        for part, size in group.items():
            total[part] = total.get(part, 0) + size
    return Phase(name, {part: size for part, size in total.items() if size})
