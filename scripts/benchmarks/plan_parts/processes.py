"""The processes of a setting: new ones for each, so that nothing of one is left in the next one's memory.

They are forked from one that has imported all libraries and has not touched the GPU, where a fork can use it; else
each imports them anew.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.backends.machine import count_gpus
from ftune.core.world import World, variables

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

TRIED_S = 120.0
"""How long the imports and the first fork may take."""

GRACE_S = 10.0
"""How long a process that has told everything may take to end."""


def starter() -> "ForkServerContext | SpawnContext":
    """How processes are started here."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asks for GPUs without opening one: what is forked still can
    here, given = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, given]))  # Python 3.11 preloads by it alone
    forked = get_context("forkserver")
    forked.set_forkserver_preload(["plan_parts.warm"])
    if not count_gpus():
        return forked
    trial = forked.Process(target=_touch_gpu)
    trial.start()
    trial.join(TRIED_S)
    if trial.exitcode == 0:
        return forked
    trial.kill()
    print(f"a forked process cannot use the GPU (it ended with {trial.exitcode}): starting each anew", flush=True)
    return get_context("spawn")


def _touch_gpu() -> None:
    import torch

    torch.zeros(1, device="cuda")


def readings(
    context: "ForkServerContext | SpawnContext", recipe_file: Path, log: Path, count: int, port: int, limit_s: float
) -> list[dict[str, Any]]:
    """What each process of a run has read, in the order of ranks; what they say goes to `log`, with `.1` and so on."""
    ends, processes = [], []
    for rank in range(count):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(recipe_file, Path(f"{log}.{rank}"), rank, count, port, theirs))
        process.start()
        theirs.close()
        ends.append(mine)
        processes.append(process)
    grace_s = 0.0
    try:
        found = _received(ends, limit_s)
        grace_s = 0.0 if any("error" in one for one in found) else GRACE_S
    finally:
        for process in processes:
            process.join(grace_s)
            if process.is_alive():
                process.kill()
                process.join()
    return found


def _received(ends: Sequence[Connection], limit_s: float) -> list[dict[str, Any]]:
    until, found = time.monotonic() + limit_s, []
    for end in ends:
        if not end.poll(max(0.0, until - time.monotonic())):
            found.append({"error": f"not done within {limit_s:.0f} s"})
            continue
        try:
            found.append(end.recv())
        except EOFError:
            found.append({"error": "the process ended without a word; its log says why"})
    return found


def _work(recipe_file: Path, log: Path, rank: int, count: int, port: int, end: Connection) -> None:
    """A process of a run."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            os.dup2(descriptor, stream.fileno())
    if count > 1:
        os.environ |= variables(World(rank, count, rank, count, 1, 0, "torchrun"), "127.0.0.1", port)
    from plan_parts.measuring import measured

    end.send(measured(recipe_file))
    end.close()
