"""One process on one device."""

from collections.abc import Mapping
from typing import Any, Literal

from ftune.backends.base import Backend
from ftune.backends.distributed import common_config
from ftune.backends.shape import Shape
from ftune.core.errors import LaunchError
from ftune.core.world import World


class Single(Backend):
    """One process: the first GPU when there is one, else the CPU."""

    type: Literal["single"] = "single"
    """One process on one device."""

    def local_processes(self, gpus: int) -> int:
        """One."""
        return 1

    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """One process."""
        return common_config(shape, "NO") | {"mixed_precision": shape.mixed_precision}

    def resolve(self, world: World | None, environment: Mapping[str, str], gpus: int) -> Backend:
        """Itself. Raises LaunchError where a launcher made several processes."""
        if world and world.count > 1:
            raise LaunchError(
                f"{world.launcher} started {world.count} processes, and 'backend: single' is for one; "
                "use 'auto' or 'ddp', or start ftune by itself"
            )
        return self
