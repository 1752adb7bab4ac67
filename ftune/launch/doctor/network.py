"""`ftune doctor --network`: starts or joins the processes of a recipe, and tells how fast they exchange sums."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.backends.machine import count_gpus
from ftune.core.errors import LaunchError
from ftune.core.say import Say
from ftune.core.world import World, export_slurm, joined
from ftune.launch.doctor.all_reduce import Timing, bus_bandwidth, measure, sizes
from ftune.launch.doctor.finding import size
from ftune.launch.doctor.links import in_words, links_in, nccl_log
from ftune.launch.doctor.meeting import meet
from ftune.launch.doctor.needs import Needs, load
from ftune.launch.place import free_port
from ftune.launch.processes import Share, ftune_command
from ftune.launch.supervisor import supervise

if TYPE_CHECKING:
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
    import torch.distributed as dist

    on_gpu = needs.device != "cpu" and torch.cuda.is_available()
    if on_gpu and world.local_count > torch.cuda.device_count():
        raise LaunchError(
            f"{world.local_count} processes on this node and {torch.cuda.device_count()} GPU(s): each needs its own; "
            "start fewer, or see whether CUDA_VISIBLE_DEVICES hides some"
        )
    device = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
    with _time_limit(world, wait_s), nccl_log() as log:
        store = meet(world, wait_s)
        try:
            if on_gpu:
                torch.cuda.set_device(device)
            backend = "nccl" if on_gpu else "gloo"
            dist.init_process_group(
                backend, store=store, rank=world.rank, world_size=world.count, timeout=timedelta(seconds=MEASURE_S)
            )
            timings = list(measure(sizes(on_gpu=on_gpu), device))
            links = _links(store, world, log)
            dist.barrier(device_ids=[device.index] if on_gpu else None)
            dist.destroy_process_group()
        except (RuntimeError, OSError) as failed:
            cause = (str(failed).splitlines() or [type(failed).__name__])[0]
            raise LaunchError(f"rank {world.rank}: the exchange broke off: {cause}; see what the others say") from None
    if world.rank == 0:
        facts = _facts(world, backend, links)
        print(json.dumps({**facts, "sizes": [_row(one, world) for one in timings]})) if as_json else _tell(
            facts, timings, world
        )
    return int(any(timing.wrong for timing in timings))


def _facts(world: World, backend: str, links: str) -> dict[str, Any]:
    return {
        "processes": world.count,
        "nodes": world.nodes,
        "launcher": world.launcher,
        "backend": backend,
        "links": links,
        "address": f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
    }


def _row(timing: Timing, world: World) -> dict[str, Any]:
    return {
        "bytes": timing.bytes,
        "latency_s": timing.seconds,
        "bus_bandwidth_gb_s": bus_bandwidth(timing.bytes, timing.seconds, world.count) / 1e9,
        "wrong_ranks": list(timing.wrong),
    }


def _tell(facts: dict[str, Any], timings: Sequence[Timing], world: World) -> None:
    """The table; GB are 10^9 bytes, as network hardware counts."""
    say = Say()
    say.result(
        f"{world.count} processes on {world.nodes} node(s), started by {facts['launcher']}, met at {facts['address']}"
    )
    say.result(f"all-reduce over {facts['backend']}; links: {facts['links']}")
    say.result(f"{'size':>10} {'latency':>12} {'bus bandwidth':>16}")
    for timing in timings:
        wrong = f"  WRONG on rank {', '.join(map(str, timing.wrong))}" if timing.wrong else ""
        speed = bus_bandwidth(timing.bytes, timing.seconds, world.count) / 1e9
        say.result(f"{size(timing.bytes):>10} {timing.seconds * 1e3:>9.3f} ms {speed:>11.3f} GB/s{wrong}")
    if any(timing.wrong for timing in timings):
        say.result("error: sums are wrong; a GPU, its link or the network is broken: do not train here")
    else:
        say.result("all sums were right")


def _links(store: "Store", world: World, log: Path) -> str:
    """The links of all processes, put together over the store."""
    own = links_in(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else set()
    store.set(f"links/{world.rank}", json.dumps(sorted(own)))
    found: set[str] = set()
    for rank in range(world.count):
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
            f"error: rank {world.rank} of {world.count} was not done within {limit_s:.0f} s: an exchange hangs; where "
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
