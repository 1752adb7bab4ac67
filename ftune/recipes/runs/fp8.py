"""Whether a run's device has the products in FP8 that its recipe asks for."""

from typing import TYPE_CHECKING

from ftune.core.errors import LaunchError

if TYPE_CHECKING:
    from ftune.recipes.runs.place import Place

CAPABILITY = (8, 9)
"""The first compute capability with such products: Ada; Hopper has 9.0."""


def check_fp8(asked: str, place: "Place") -> None:
    """Raises LaunchError for a device without them; `asked` is the value of `speed.fp8`."""
    import torch

    if asked == "off":
        return
    wanted, way_out = f"speed.fp8: '{asked}' needs a GPU of compute capability 8.9", "use 'speed.fp8: off'"
    if not place.on_gpu:
        raise LaunchError(f"{wanted}, and this run is on a CPU; {way_out}")
    found = torch.cuda.get_device_capability(place.device)
    if found < CAPABILITY:
        name = torch.cuda.get_device_name(place.device)
        raise LaunchError(f"{wanted}, and {name} has {found[0]}.{found[1]}; {way_out}")
    if place.dtype != "bf16":
        raise LaunchError(
            f"speed.fp8: '{asked}' gives its results in bf16, and products are in {place.dtype}; {way_out}"
        )
