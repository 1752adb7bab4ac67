"""The program as processes that are forked from one which has imported everything: ready in a second, not in ten.

They are processes of their own in every other way: they have their own files, variables and signals, and can be killed.
With FTUNE_TESTS_START=spawn each is a new Python that imports everything itself, as a run outside the tests is.
"""

import faulthandler
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from ftune.launch.place import free_port

IMPORTED = [
    "ftune.cli.main", "ftune.launch.node", "ftune.recipes.load", "ftune.recipes.ppo", "ftune.recipes.runs.proof",
    "ftune.recipes.runs.sft", "ftune.recipes.sft", "ftune.report.page.write", "ftune.trainers.sft",
    "ftune.trainers.probe", "ftune.trainers.proof", "ftune.models.load", "ftune.models.save", "ftune.peft.lora",
    "bitsandbytes", "ckpt_chaos.inject", "ckpt_chaos.targets.common", "deepspeed", "matplotlib.backends.backend_agg",
    "matplotlib.pyplot", "peft.tuners.lora.bnb", "safetensors.torch", "torch.distributed",
    "transformers.models.llama.modeling_llama",
]  # fmt: skip
"""What a run of `ftune sft` imports in the end; what is not installed is left out."""

LIMIT_S = 300.0

READ_ON_IMPORT = ("BITSANDBYTES_", "DS_", "HF_", "PYTHON", "TORCH", "TRANSFORMERS_", "TRITON_")
"""Beginnings of variables that libraries read when they are imported."""

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(IMPORTED)
_spawn = multiprocessing.get_context("spawn")


def _read_on_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_ON_IMPORT)}


@cache
def _imported_with() -> dict[str, str]:
    """Start the process that forks, and what it reads on import."""
    forkserver.ensure_running()
    return _read_on_import(os.environ)


def start(
    module: str,
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    said: Path,
    before: Callable[[], object] = bool,
) -> BaseProcess:
    """A process that calls `before`, a function of a module, and runs `python -m MODULE WORDS` in `cwd`.

    It has these variables and no others; what it says goes to the end of `said`. `exitcode` of the process that is
    returned is its exit code, or minus the number of the signal that ended it. It is forked unless its libraries have
    to be imported with other variables.
    """
    new = os.environ.get("FTUNE_TESTS_START") == "spawn" or _read_on_import(environment) != _imported_with()
    what = module, list(words), str(cwd), dict(environment), str(said), before
    process = (_spawn if new else _forkserver).Process(target=_run, args=what)
    process.start()
    return process


class Forked:
    """A run of the program: one process, or several that join each other as `torchrun` would make them."""

    def __init__(
        self,
        *words: object,
        cwd: Path,
        ranks: int = 1,
        variables: Sequence[Mapping[str, str]] = (),
        log: str = "said",
        before: Callable[[], object] = bool,
    ) -> None:
        """Start `ftune WORDS` in `cwd`; what rank K says goes to `log`.K there. `variables` are those of each rank.

        Each calls `before` first, a function of a module.
        """
        port = str(free_port())
        self.logs = [cwd / f"{log}.{rank}" for rank in range(ranks)]
        self.processes: list[BaseProcess] = []
        for rank, said in enumerate(self.logs):
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
            place |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
            environment = {**os.environ, **(variables[rank] if variables else {}), **(place if ranks > 1 else {})}
            said.unlink(missing_ok=True)
            self.processes.append(start("ftune", [str(word) for word in words], cwd, environment, said, before))

    def send(self, number: int, *ranks: int) -> None:
        """A signal for these ranks, or for all."""
        for rank in ranks or range(len(self.processes)):
            os.kill(self.processes[rank].pid or 0, number)

    def kill(self, *ranks: int) -> None:
        """`kill -9` these ranks, or all."""
        self.send(signal.SIGKILL, *ranks)

    @property
    def running(self) -> bool:
        """Whether any process of it runs."""
        return any(process.is_alive() for process in self.processes)

    def wait(self, timeout_s: float = LIMIT_S) -> list[int | None]:
        """The exit codes of all ranks, once they have ended; -9 for one that was killed."""
        until = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in hung:
            self.kill(rank)
        assert not hung, f"ranks {hung} still run after {timeout_s} s:\n{self.said()}"
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        """What all ranks have said."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    def until(self, true: Callable[[], bool], timeout_s: float = LIMIT_S) -> bool:
        """Wait until something is true; not so when the run has ended before."""
        until = time.monotonic() + timeout_s
        while not true():
            if not self.running:
                return true()
            assert time.monotonic() < until, f"the run did not get there:\n{self.said()}"
            time.sleep(0.002)
        return True


def _run(
    module: str,
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    said: str,
    before: Callable[[], object],
) -> None:
    gc.freeze()  # nothing of what was imported is garbage, and to look through it takes half a second each time
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:  # which torch has read when it was imported
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if "CKPT_CHAOS_WATCH" in environment:
        from ckpt_chaos.targets.common import arm_from_env

        arm_from_env(int(environment.get("RANK", 0)), lazy=True)
    before()
    sys.argv = [module, *words]
    sys.path.insert(0, cwd)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
