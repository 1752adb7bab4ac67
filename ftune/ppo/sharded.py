"""Parameters that FSDP2 has split over ranks, whole and back. Without FSDP2 nothing happens here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def trained(module: nn.Module, *, twice: bool = False) -> dict[str, Tensor]:
    """What trains, by name, without gradients and sharded where it is; weights with two names once, or `twice`.

    Between a forward and a backward pass modules hold gathered copies. FSDP2 puts the shards back before it lets a
    `state_dict` be made.
    """
    named = module.named_parameters(remove_duplicate=not twice)
    parameters = {name: value.detach() for name, value in named if value.requires_grad}
    if not any(isinstance(part, FSDPModule) for part in module.modules()):
        return parameters
    return {name: value for name, value in module.state_dict().items() if name in parameters}


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
    split = {name: value for name, value in trained(module, twice=True).items() if isinstance(value, DTensor)}
    wholes = {name: whole(value).cpu() for name, value in split.items()}

    def replace(_: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
        state.update({f"{prefix}{name}": value for name, value in wholes.items()})

    hook = module.register_state_dict_post_hook(replace)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
