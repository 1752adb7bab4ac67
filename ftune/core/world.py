"""The processes that a launcher made this one a member of, read from the environment alone.

torchrun, `accelerate launch` and ftune's own launcher say the same: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT. Slurm's `srun` with one task a process says it in words of its own.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ftune.core.errors import LaunchError

LAUNCHER = "FTUNE_LAUNCHER"
"""Set by ftune's own launcher for the processes it starts."""

FIRST_PORT, PORTS = 20000, 20000
"""Slurm gives no port: one is made of the job's number, in this range."""


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
    """The world that a launcher made, or None where this process stands alone. Raises LaunchError for half a world."""
    given = os.environ if environment is None else environment
    if "RANK" in given and "WORLD_SIZE" in given:
        return _of_torchrun(given)
    if _number(given, "SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in given:
        return _of_slurm(given)
    return None


def export_slurm(environment: dict[str, str]) -> None:
    """Say in torchrun's words what Slurm says of this task; nothing where there is no such task."""
    world = joined(environment)
    if world is None or world.launcher != "slurm":
        return
    job = _number(environment, "SLURM_JOB_ID", 0)
    environment |= {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.count),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_count),
        "GROUP_RANK": str(world.node),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(FIRST_PORT + job % PORTS),
    }


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[03-06,11],login1` gives `gpu03`.

    Raises LaunchError for an empty list.
    """
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?", nodes)
    if match is None:
        raise LaunchError(f"SLURM_STEP_NODELIST: '{nodes}' names no host; set MASTER_ADDR to that of task 0")
    return match[1] + (match[2] or "")


def _of_torchrun(given: Mapping[str, str]) -> World:
    rank, count = _number(given, "RANK", 0), _number(given, "WORLD_SIZE", 1)
    local_count = _number(given, "LOCAL_WORLD_SIZE", count)
    if not (0 <= rank < count) or count % max(local_count, 1):
        raise LaunchError(f"RANK {rank} of WORLD_SIZE {count}, {local_count} a node: no such world; unset RANK")
    launcher = "torchrun"
    if LAUNCHER in given:
        launcher = "ftune"
    elif "ACCELERATE_MIXED_PRECISION" in given:
        launcher = "accelerate"
    return World(
        rank,
        count,
        _number(given, "LOCAL_RANK", rank % local_count),
        local_count,
        count // local_count,
        _number(given, "GROUP_RANK", rank // local_count),
        launcher,
    )


def _of_slurm(given: Mapping[str, str]) -> World:
    count, nodes = _number(given, "SLURM_STEP_NUM_TASKS", 1), _number(given, "SLURM_STEP_NUM_NODES", 1)
    if count % nodes:
        raise LaunchError(f"srun gave {count} tasks to {nodes} nodes; ftune needs as many on each: --ntasks-per-node")
    return World(
        _number(given, "SLURM_PROCID", 0),
        count,
        _number(given, "SLURM_LOCALID", 0),
        count // nodes,
        nodes,
        _number(given, "SLURM_NODEID", 0),
        "slurm",
    )


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    value = given.get(name, "")
    if value and not value.isdecimal():
        raise LaunchError(f"{name}: '{value}' is no number; it is the launcher that sets it")
    return int(value) if value else default
