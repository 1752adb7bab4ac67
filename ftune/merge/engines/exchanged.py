"""What loading an adapter changes in a model's tree of modules, to be taken out and put in again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a dict that is part of a module: its children, its hooks, its attributes, ..."""

    place: str
    """The module's path in the model and the entry's key."""
    holder: dict[Any, Any]
    key: Any
    before: Any
    after: Any

    def take_out(self) -> None:
        """The entry as it was."""
        _put(self.holder, self.key, self.before)

    def put_in(self) -> None:
        """The entry as it was changed to."""
        _put(self.holder, self.key, self.after)


class Watch:
    """The tree of a model as it is now, to be compared with."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = [(path, holder, dict(holder)) for path, holder in _holders(model)]

    def changes(self) -> list[Change]:
        """Every entry that is another object by now, in the modules that were there."""
        found = []
        for path, holder, before in self._seen:
            for key in [*before, *(new for new in holder if new not in before)]:
                old, new = before.get(key, _ABSENT), holder.get(key, _ABSENT)
                if new is not old and key != "training":  # a mode, which is nobody's to take back
                    found.append(Change(f"{path}.{key}".lstrip("."), holder, key, old, new))
        return found


def _holders(model: nn.Module) -> Iterator[tuple[str, dict[Any, Any]]]:
    for path, module in model.named_modules():
        yield path, vars(module)
        yield from ((path, value) for value in vars(module).values() if isinstance(value, dict))


def _put(holder: dict[Any, Any], key: Any, value: Any) -> None:
    if value is _ABSENT:
        holder.pop(key, None)
    else:
        holder[key] = value
