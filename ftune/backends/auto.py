"""The backend that a launcher asks for, or else the one that this machine suggests."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from ftune.backends.asked import asked_of
from ftune.backends.base import Backend
from ftune.backends.ddp import Ddp
from ftune.backends.distributed import Distributed
from ftune.backends.fsdp import Fsdp
from ftune.backends.shape import Shape
from ftune.backends.single import Single
from ftune.backends.zero import Zero
from ftune.core.errors import LaunchError
from ftune.core.world import World


class Auto(Distributed):
    """What a launcher asks for; else `ddp` for several processes or GPUs, and `single` for one."""

    type: Literal["auto"] = "auto"
    """What a launcher asks for; else `ddp` for several processes or GPUs, and `single` for one."""

    def resolve(self, world: World | None, environment: Mapping[str, str], gpus: int) -> Backend:
        """The backend of `accelerate launch` with its settings, or the one that processes and GPUs suggest."""
        asked = asked_of(environment)
        device = "cpu" if asked.use_cpu and self.device == "auto" else self.device
        if world is None:
            here = self.model_copy(update={"device": device})
            several = here.num_nodes * here.local_processes(gpus) > 1
            given: dict[str, Any] = {"num_processes": self.num_processes, "num_nodes": self.num_nodes}
        else:
            several = world.count > 1
            given = {"num_processes": world.local_count, "num_nodes": world.nodes}
        given["device"] = device
        try:
            if world and asked.kind == "zero" and asked.zero["stage"] != 0:
                return Zero(**given, **asked.zero).resolve(world, environment, gpus)
            if world and asked.kind == "fsdp":
                return Fsdp(**given, **asked.fsdp).resolve(world, environment, gpus)
        except ValidationError as error:
            raise LaunchError(f"the launcher asks for what ftune cannot do: {_first(error)}") from None
        return Ddp(**given).resolve(world, environment, gpus) if several else Single(device=device)

    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """That of `ddp` or `single`, as the number of processes says."""
        backend: Backend = Ddp() if shape.world_size > 1 else Single()
        return backend.accelerate_config(shape)


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in detail["loc"]) + f": {detail['msg']}, got {detail['input']!r}"
