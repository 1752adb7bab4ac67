"""Parameters that FSDP2 has split over ranks, whole and back. Without FSDP2 nothing happens here."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or the one whose shards all ranks hold, which they gather together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


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
    """What trains stands whole and exact in its modules, on the CPU: for saving. Every rank has to enter."""
    split = [
        (part, name, value)
        for part in module.modules()
        for name, value in part.named_parameters(recurse=False)
        if value.requires_grad and isinstance(value, DTensor)
    ]
    try:
        for part, name, value in split:
            part.register_parameter(name, nn.Parameter(value.full_tensor().detach().cpu()))
        yield
    finally:
        for part, name, value in split:
            part.register_parameter(name, value)
