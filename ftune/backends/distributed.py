"""What all backends of several processes have in common: how many of them."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ftune.backends.base import Backend
from ftune.backends.machine import count_cores, count_gpus
from ftune.backends.shape import Shape
from ftune.core.section import Location
from ftune.core.world import World

Count = Annotated[int, Field(ge=1)]


class Distributed(Backend):
    """A backend of several processes."""

    num_processes: Literal["auto"] | Count = "auto"
    """Processes on each node; `auto` is one for each GPU, and one where there are none."""

    num_nodes: Count = 1
    """Machines, each with that many processes."""

    @property
    def nodes(self) -> int:
        """Machines of a run."""
        return self.num_nodes

    @property
    def known_processes(self) -> int | None:
        """The product of both numbers, unless the first is for the machine to say."""
        return None if self.num_processes == "auto" else self.num_processes * self.num_nodes

    def local_processes(self, gpus: int) -> int:
        """The number in the recipe, or one for each GPU."""
        if self.num_processes != "auto":
            return self.num_processes
        return gpus if self.on_gpu(gpus) else 1

    def contradictions(self, world: World | None, environment: Mapping[str, str], shape: Shape) -> list[str]:
        """Those of every backend, and numbers of processes and nodes, which a process must take as they are."""
        found = super().contradictions(world, environment, shape)
        if world is None:
            return found
        counts = [("num_nodes", "nodes", world.nodes), ("num_processes", "processes on each node", world.local_count)]
        for key, words, there in counts:
            wanted = getattr(self, key)
            if key in self.model_fields_set and wanted not in ("auto", there):
                found.append(
                    f"{world.launcher} started {there} {words}, the recipe's backend.{key} is {wanted}: the run has "
                    f"those that were started; start {wanted}, or set backend.{key}={there}"
                )
        return found

    def faults(self) -> Iterator[tuple[Location, str]]:
        """More processes than devices."""
        yield from super().faults()
        gpus = count_gpus()
        if self.num_processes == "auto":
            return
        if self.on_gpu(gpus) and self.num_processes > gpus:
            yield ("num_processes",), f"{self.num_processes} processes for {gpus} GPUs; each needs one, use 'auto'"
        elif not self.on_gpu(gpus) and self.num_processes > (cores := count_cores()):
            yield (
                ("num_processes",),
                f"{self.num_processes} processes for {cores} cores and no GPU; use {cores} or less",
            )


def common_config(shape: Shape, distributed_type: str) -> dict[str, Any]:
    """What accelerate's configurations of all kinds say alike.

    On several nodes the launcher of each adds `--machine_rank`, `--main_process_ip` and `--main_process_port`.
    """
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": distributed_type,
        "num_machines": shape.nodes,
        "num_processes": shape.world_size,
        "use_cpu": not shape.on_gpu,
        "same_network": True,
    }
