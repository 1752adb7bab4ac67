"""Whether a run's device has somewhere to put activations."""

from typing import TYPE_CHECKING

from ftune.core.errors import LaunchError

if TYPE_CHECKING:
    from ftune.recipes.runs.place import Place
    from ftune.recipes.training_sections import Batch


def offloads(batch: "Batch", place: "Place") -> bool:
    """Whether inputs of layers go to the CPU's memory. Raises LaunchError where they are there anyway."""
    if batch.activation_offload and not place.on_gpu:
        raise LaunchError(
            "batch.activation_offload: this run is on a CPU, in whose memory activations are anyway; set it to false"
        )
    return batch.activation_offload
