"""Parameters that FSDP2 has split over ranks, whole and back."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or the one whose shards all ranks hold, which they gather together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, as it is split in `place`, and on its device."""
    value = value.to(place.device)
    return distribute_tensor(value, place.device_mesh, place.placements) if isinstance(place, DTensor) else value
