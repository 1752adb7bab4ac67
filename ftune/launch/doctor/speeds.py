"""What `ftune doctor --network` prints: a table for people, or one JSON object."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ftune.core.say import Say
from ftune.core.several import several
from ftune.core.world import World
from ftune.launch.doctor.all_reduce import Timing, bus_bandwidth
from ftune.launch.doctor.finding import size


@dataclass(frozen=True, slots=True)
class Speeds:
    """All-reduces between the processes of a world."""

    world: World
    address: str
    """Where they met, HOST:PORT."""
    backend: str
    """nccl or gloo."""
    links: str
    """How processes are linked, in words."""
    timings: Sequence[Timing]

    @property
    def are_right(self) -> bool:
        """Whether every sum was right on every process."""
        return not any(timing.wrong for timing in self.timings)


def as_json(speeds: Speeds) -> str:
    """One object; times in seconds, bandwidth in 10^9 bytes a second."""
    rows = [
        {
            "bytes": timing.bytes,
            "latency_s": timing.seconds,
            "bus_bandwidth_gb_s": _bandwidth(timing, speeds.world),
            "wrong_ranks": list(timing.wrong),
        }
        for timing in speeds.timings
    ]
    world = speeds.world
    place = {"processes": world.count, "nodes": world.nodes, "launcher": world.launcher, "address": speeds.address}
    return json.dumps({**place, "backend": speeds.backend, "links": speeds.links, "sizes": rows})


def tell(speeds: Speeds, say: Say) -> None:
    """A line a size; GB are 10^9 bytes, as makers of network hardware count."""
    nodes = several(speeds.world.nodes, "node")
    launcher = speeds.world.launcher
    say.result(f"{speeds.world.count} processes on {nodes}, started by {launcher}, met at {speeds.address}")
    say.result(f"all-reduce over {speeds.backend}; links: {speeds.links}")
    say.result(f"{'size':>10} {'latency':>12} {'bus bandwidth':>16}")
    for timing in speeds.timings:
        wrong = f"  WRONG on rank {', '.join(map(str, timing.wrong))}" if timing.wrong else ""
        bandwidth = _bandwidth(timing, speeds.world)
        say.result(f"{size(timing.bytes):>10} {timing.seconds * 1e3:>9.3f} ms {bandwidth:>11.3f} GB/s{wrong}")
    if speeds.are_right:
        say.result("all sums were right")
    else:
        say.result("error: sums are wrong: a GPU, its link or the network is broken; do not train here")


def _bandwidth(timing: Timing, world: World) -> float:
    return bus_bandwidth(timing.bytes, timing.seconds, world.count) / 1e9
