"""More processes for an evaluation: each completes its share of the rows on its own GPU, or with its part of the cores.

They are independent of each other: files are all that they exchange, and the first process collects these.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Literal

from ftune.backends.machine import count_cores, count_gpus
from ftune.backends.ranks import LostError
from ftune.core.errors import FtuneError
from ftune.core.quiet import quiet_bars, quiet_upstream
from ftune.recipes.runs.eval_systems import Systems
from ftune.recipes.runs.eval_work import Work

Check = Callable[[], None]


def wanted_processes(processes: Literal["auto"] | int, device: str) -> int:
    """How many a recipe asks for: by default one for each GPU, and one where models compute on CPUs."""
    import torch

    if processes != "auto":
        return processes
    return 1 if device == "cpu" else max(1, torch.cuda.device_count())


@contextmanager
def others_at_work(work: Work, systems: Systems) -> Iterator[Check]:
    """All processes of the work but the first, which is this one. They are waited for in the end.

    Gives what raises LostError once one of them has failed. None of them outlives what is inside.
    """
    context = get_context("spawn")  # a fork would share CUDA's state, which it does not survive
    others = [
        context.Process(target=_work_along, args=(work, systems, number), daemon=True)
        for number in range(1, work.processes)
    ]

    def check() -> None:
        for number, process in enumerate(others, start=2):
            if code := process.exitcode:
                how = f"exit code {code}, and says why above" if code > 0 else f"signal {signal.Signals(-code).name}"
                raise LostError(
                    f"process {number} of {work.processes} ended with {how}; what is completed is kept: run it again, "
                    "with fewer 'processes' where memory is short",
                    code if code > 0 else 128 - code,
                )

    _start(others)
    if others:
        _take_own_cores(work.processes)
    try:
        yield check
        _wait(others, check)
    finally:
        for process in others:
            process.terminate()
            process.join()


def _start(others: Sequence[BaseProcess]) -> None:
    """Start them so that Ctrl-C is for the first process alone, which ends them: they inherit that they ignore it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in others:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(others: Sequence[BaseProcess], check: Check) -> None:
    while running := [process.sentinel for process in others if process.is_alive()]:
        wait(running)
        check()
    check()


def _work_along(work: Work, systems: Systems, number: int) -> None:
    """What each of the other processes does; it ends with the first one, however that ends."""
    quiet_upstream(debug=os.environ.get("FTUNE_DEBUG") == "1")
    if systems.device != "cpu" and count_gpus():
        _take_own_gpu(number)
    _take_own_cores(work.processes)
    quiet_bars()
    first = parent_process()

    def told(_: int) -> None:
        if first is not None and not first.is_alive():
            sys.exit("the first process is gone")

    try:
        for system, model in systems.opened():
            work.complete(system.name, model, number, told)
    except Exception as error:
        if os.environ.get("FTUNE_DEBUG") == "1":
            raise
        words = error if isinstance(error, FtuneError) else f"{type(error).__name__}: {error}"
        print(f"error: process {number + 1} of {work.processes}: {words}", file=sys.stderr, flush=True)
        sys.exit(getattr(error, "exit_code", 1))


def _take_own_gpu(number: int) -> None:
    """Let this process see one GPU only, of those that the first one sees."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = listed.split(",")[number] if listed else str(number)


def _take_own_cores(processes: int) -> None:
    """Or all processes would start as many threads as there are cores, and wait for each other."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, count_cores() // processes))
