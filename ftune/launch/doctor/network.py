"""`ftune doctor --network`: starts or joins the processes of a recipe, and tells how fast they exchange sums."""

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.backends.machine import count_gpus
from ftune.core.errors import LaunchError
from ftune.core.interface import interface_to
from ftune.core.say import Say
from ftune.core.several import several
from ftune.core.world import World, export_slurm, joined
from ftune.launch.doctor.all_reduce import Timing, measure, sizes
from ftune.launch.doctor.links import in_words, links_in, nccl_log
from ftune.launch.doctor.meeting import meet
from ftune.launch.doctor.needs import Needs, load
from ftune.launch.doctor.speeds import Speeds, tell
from ftune.launch.doctor.speeds import as_json as speeds_as_json
from ftune.launch.place import free_port
from ftune.launch.processes import Share, ftune_command
from ftune.launch.supervisor import supervise

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store  # `torch.distributed` has it too, but without types

WITHOUT_RECIPE = 2
"""Processes where there is neither a recipe nor a GPU."""

MEASURE_S = 300.0
"""All sizes together take seconds; after this time something hangs."""


def time_network(recipe: Path | None, words: Sequence[str], wait_s: float, *, as_json: bool) -> int:
    """Time all-reduces and print them; the exit code is 1 where a sum was wrong.

    Inside a launcher this process joins the others; else `ftune` with these words is started in as many processes as
    the recipe has on this node. Raises LaunchError where processes do not come or are lost, RecipeError.
    """
    needs = load(recipe) if recipe else Needs()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what goes wrong is said in words, not as frames of C++
    world = joined()
    if world is not None and world.count > 1:
        export_slurm(os.environ)
        return _as_member(world, needs, wait_s, as_json=as_json)
    gpus = count_gpus()
    processes = needs.on_node(gpus) if recipe or gpus else WITHOUT_RECIPE
    if processes == 1:
        raise LaunchError(
            "one process has nobody to exchange with; give a recipe whose backend has several, or start this on each "
            "node: torchrun --nnodes 2 ... -m ftune doctor --network"
        )
    if needs.nodes > 1:
        Say().warning(
            f"the recipe has {needs.nodes} nodes, and only the processes of this one are timed; for all of them: "
            f"srun --ntasks-per-node={processes} ftune doctor --network, or torchrun on each node"
        )
    return supervise(ftune_command(words), Share(processes, 1, 0, "127.0.0.1", free_port()))


def _as_member(world: World, needs: Needs, wait_s: float, *, as_json: bool) -> int:
    """One process of the world: meet the others, measure, and on the first process tell."""
    import torch

    on_gpu = needs.device != "cpu" and torch.cuda.is_available()
    if on_gpu and world.local_count > torch.cuda.device_count():
        gpus = several(torch.cuda.device_count(), "GPU")
        raise LaunchError(
            f"{world.local_count} processes on this node and {gpus}: each needs its own; start fewer, or see whether "
            "CUDA_VISIBLE_DEVICES hides some"
        )
    device = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
    with _time_limit(world, wait_s):
        store = meet(world, wait_s)
        try:
            timings, links = _exchange(world, store, device)
        except (RuntimeError, OSError) as failed:
            raise LaunchError(f"rank {world.rank}: {broken_off(str(failed), world, os.environ)}") from None
    backend, address = ("nccl" if on_gpu else "gloo"), f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    speeds = Speeds(world, address, backend, links, timings)
    if world.rank == 0 and as_json:
        print(speeds_as_json(speeds))
    elif world.rank == 0:
        tell(speeds, Say())
    return 0 if speeds.are_right else 1


def broken_off(said: str, world: World, given: Mapping[str, str]) -> str:
    """The words for an exchange that failed with `said`, in the variables `given`.

    gloo offers the others the address of this machine's name, which on many machines is a loopback address.
    """
    cause = re.sub(r"\[/[^\]]*\] ?", "", said).partition("\n")[0].partition(". ")[0]  # without places in gloo's code
    words = f"the exchange broke off: {cause}"
    if world.nodes > 1 and "[127." in cause and "GLOO_SOCKET_IFNAME" not in given:
        interface = interface_to(given.get("MASTER_ADDR", "")) or "INTERFACE"
        return (
            f"{words}; the name of a node leads to itself alone: export GLOO_SOCKET_IFNAME={interface} on this node, "
            "and on each other the interface that leads here"
        )
    return f"{words}; see what the others say"


def _exchange(world: World, store: "Store", device: "torch.device") -> tuple[list[Timing], str]:
    """Time all sizes in a process group of their own; gives the links too."""
    import torch
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    with nccl_log() as log:
        limit = timedelta(seconds=MEASURE_S)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", store=store, rank=world.rank, world_size=world.count, timeout=limit
        )
        try:
            timings = list(measure(sizes(on_gpu=on_gpu), device))
            links = _links(store, world, log)
            dist.barrier(device_ids=[device.index] if on_gpu else None)  # the first process holds the store
            return timings, links
        finally:
            dist.destroy_process_group()


def _links(store: "Store", world: World, log: Path) -> str:
    """The links of all processes, put together over the store by the first one."""
    own = links_in(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else set()
    store.set(f"links/{world.rank}", json.dumps(sorted(own)))
    found: set[str] = set()
    for rank in range(world.count) if world.rank == 0 else ():
        found |= set(json.loads(store.get(f"links/{rank}")))
    if found:
        return in_words(found)
    chosen = os.environ.get("GLOO_SOCKET_IFNAME")
    return f"TCP on {chosen}" if chosen else "TCP on the interface of this machine's name"


@contextmanager
def _time_limit(world: World, wait_s: float) -> Iterator[None]:
    """End this process with words when all takes too long: an exchange that hangs cannot be interrupted otherwise."""
    limit_s = 2 * wait_s + MEASURE_S

    def end() -> None:
        print(
            f"error: rank {world.rank} of {world.count} was not done within {limit_s:g} s: an exchange hangs; where "
            "only large messages do, the network drops large packets (MTU), else a process is gone",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
