"""Parameters that FSDP2 has split over ranks, whole and back. Without FSDP2 nothing happens here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or a copy of the one whose shards all ranks hold, which they gather together."""
    # what torch gathers is still on its way, and has no memory that could be saved, until something is done with it
    return value.full_tensor().clone() if isinstance(value, DTensor) else value


def like(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, as it is split in `place`, and on its device."""
    value = value.to(place.device)
    return distribute_tensor(value, place.device_mesh, place.placements) if isinstance(place, DTensor) else value


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Every rank has all weights, in the number format of products: for generation, which calls inner modules."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    try:
        for part in parts:
            part.unshard()
        yield
    finally:
        for part in parts:
            part.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """What trains stands whole, exact and on the CPU in the module's `state_dict`: for saving. Every rank has to enter.

    FSDP2 puts shards back into modules before it lets a `state_dict` be made, so they are replaced in the result.
    """
    split = {
        name: value
        for name, value in module.named_parameters(remove_duplicate=False)
        if value.requires_grad and isinstance(value, DTensor)
    }
    wholes = {value: whole(value).detach().cpu() for value in dict.fromkeys(split.values())}

    def replace(_: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
        state.update({f"{prefix}{name}": wholes[value] for name, value in split.items()})

    hook = module.register_state_dict_post_hook(replace)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
