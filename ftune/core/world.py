"""The processes that a launcher made this one a member of, read from the environment alone.

torchrun, `accelerate launch` and ftune's own launcher say the same: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT. Slurm's `srun` with one task a process says it in words of its own.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from ftune.core.errors import LaunchError

LAUNCHER = "FTUNE_LAUNCHER"
"""Set by ftune's own launcher for the processes it starts: the command that was typed."""

ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""Set by `accelerate launch` for all processes it starts."""

FIRST_PORT, PORTS = 20000, 10000
"""Where ftune looks for a port: below those that Linux gives to outgoing connections (from 32768 on)."""


@dataclass(frozen=True, slots=True)
class World:
    """All processes of a run, and which of them this one is."""

    rank: int
    """From 0 to `count` - 1; 0 writes and speaks."""
    count: int
    local_rank: int
    """Among those on this node: the number of its GPU."""
    local_count: int
    nodes: int
    node: int
    launcher: str
    """Who made the processes: ftune, torchrun, accelerate or slurm."""


def joined(environment: Mapping[str, str] | None = None) -> World | None:
    """The world that a launcher made, or None where this process stands alone. Raises LaunchError for a wrong one."""
    given = os.environ if environment is None else environment
    if "RANK" in given and "WORLD_SIZE" in given:
        return _of_torchrun(given)
    if number(given, "SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in given:
        return _of_slurm(given)
    if ACCELERATE in given:  # `accelerate launch` sets no RANK for a single process
        return World(0, 1, 0, 1, 1, 0, "accelerate")
    return None


def variables(world: World, address: str, port: int) -> dict[str, str]:
    """A world in torchrun's words; rank 0 is met at `address` and `port`."""
    return {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.count),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_count),
        "GROUP_RANK": str(world.node),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def export_slurm(environment: MutableMapping[str, str]) -> None:
    """Say in torchrun's words what Slurm says of this task; nothing where there is no such task."""
    world = joined(environment)
    if world is None or world.launcher != "slurm":
        return
    host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", ""))
    environment.update(variables(world, host, number(environment, "MASTER_PORT", slurm_port(environment))))


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[03-06,11],login1` gives `gpu03`.

    Raises LaunchError for an empty list.
    """
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise LaunchError(f"Slurm's list of nodes is '{nodes}', which names no host; set MASTER_ADDR to that of task 0")
    return "".join(part for part in match.groups() if part)


def slurm_port(environment: Mapping[str, str]) -> int:
    """The port of a job step, as Slurm gives none: the same on all its nodes, and hardly that of a neighbour."""
    job, step = number(environment, "SLURM_JOB_ID", 0), number(environment, "SLURM_STEP_ID", 0)
    return FIRST_PORT + (job * 31 + step) % PORTS


def number(given: Mapping[str, str], name: str, default: int) -> int:
    """A variable that is a number of 0 or more; `default` where it is not set, or empty. Raises LaunchError."""
    value = given.get(name, "")
    if value and not re.fullmatch("[0-9]+", value):
        raise LaunchError(f"{name}: '{value}' is no number; it is the launcher that sets it")
    return int(value) if value else default


def _of_torchrun(given: Mapping[str, str]) -> World:
    rank, count = number(given, "RANK", 0), number(given, "WORLD_SIZE", 1)
    local_count = number(given, "LOCAL_WORLD_SIZE", count)
    if not (rank < count and local_count > 0) or count % local_count:
        raise LaunchError(f"RANK {rank} of WORLD_SIZE {count}, {local_count} a node: no such world; unset RANK")
    launcher = "torchrun"
    if LAUNCHER in given:
        launcher = "ftune"
    elif ACCELERATE in given:
        launcher = "accelerate"
    return World(
        rank,
        count,
        number(given, "LOCAL_RANK", rank % local_count),
        local_count,
        count // local_count,
        number(given, "GROUP_RANK", rank // local_count),
        launcher,
    )


def _of_slurm(given: Mapping[str, str]) -> World:
    count, nodes = number(given, "SLURM_STEP_NUM_TASKS", 1), number(given, "SLURM_STEP_NUM_NODES", 1)
    if nodes < 1 or count % nodes:
        raise LaunchError(f"srun gave {count} tasks to {nodes} nodes; ftune needs as many on each: --ntasks-per-node")
    return World(
        number(given, "SLURM_PROCID", 0),
        count,
        number(given, "SLURM_LOCALID", 0),
        count // nodes,
        nodes,
        number(given, "SLURM_NODEID", 0),
        "slurm",
    )
