"""Two merged models compared tensor by tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ftune.merge.tensors import Stored

PIECE = 2**24
"""Values that are compared at a time."""


@dataclass(slots=True)
class Difference:
    """How far two models are apart."""

    values: int = 0
    differing: int = 0
    further: int = 0
    """Values that are more than one step of their dtype apart."""
    largest: float = 0.0
    """The largest absolute difference."""


def difference(one: Path, other: Path) -> Difference:
    """Compare two folders with models in 16 bit. Raises ValueError where names, shapes or dtypes differ."""
    left, right = _tensors(one), _tensors(other)
    if left.keys() != right.keys():
        raise ValueError(f"tensors differ: {sorted(left.keys() ^ right.keys())[:4]}")
    found = Difference()
    for name, stored in left.items():
        if (stored.shape, stored.dtype) != (right[name].shape, right[name].dtype):
            raise ValueError(f"{name} is {stored.dtype} {stored.shape} and {right[name].dtype} {right[name].shape}")
        mine, theirs = stored.read().flatten(), right[name].read().flatten()
        for start in range(0, len(mine), PIECE):
            _add(found, mine[start : start + PIECE], theirs[start : start + PIECE])
    return found


def _add(found: Difference, mine: "torch.Tensor", theirs: "torch.Tensor") -> None:
    import torch

    found.values += mine.numel()
    places = (mine.view(torch.int16) != theirs.view(torch.int16)).nonzero().flatten()
    if not len(places):
        return
    mine, theirs = mine[places], theirs[places]
    found.differing += int((mine != theirs).sum())  # zeros of either sign are the same
    found.further += int(((_place(mine) - _place(theirs)).abs() > 1).sum())
    found.largest = max(found.largest, float((mine.float() - theirs.float()).abs().max()))


def _place(values: "torch.Tensor") -> "torch.Tensor":
    """The place of 16-bit floating-point values among all there are, in their order."""
    import torch

    bits = values.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def _tensors(folder: Path) -> "dict[str, Stored]":
    from ftune.merge.tensors import stored_in

    return {stored.name: stored for file in sorted(folder.glob("*.safetensors")) for stored in stored_in(file)}
