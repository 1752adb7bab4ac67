"""A process of a run as the supervisor starts it: its variables, its output, and its end should the supervisor die."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ftune.backends.machine import count_cores
from ftune.core.interface import interface_to
from ftune.core.world import LAUNCHER, World, variables

TAIL_LINES, TAIL_BYTES = 20, 4000
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a run that one node has, and where all parts meet."""

    processes: int
    """On this node, as on every other."""
    nodes: int
    node: int
    """From 0 to `nodes` - 1; on node 0 is rank 0, which the others meet."""
    host: str
    port: int

    def world(self, local_rank: int) -> World:
        """What the process with that number on this node is in the run."""
        rank, count = self.node * self.processes + local_rank, self.nodes * self.processes
        return World(rank, count, local_rank, self.processes, self.nodes, self.node, "ftune")


class Process:
    """A running process of a run. Rank 0 has the terminal, the others write to a file without a name."""

    def __init__(self, command: Sequence[str], share: Share, local_rank: int) -> None:
        self.world = share.world(local_rank)
        self.speaks = self.world.rank == 0
        self.output: BinaryIO | None = None if self.speaks else tempfile.TemporaryFile()  # noqa: SIM115
        self._started_at = time.time()
        self._inner = subprocess.Popen(
            command,
            env=_environment(os.environ, self.world, share),
            stdin=None if self.speaks else subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,  # Ctrl-C is for the supervisor, which passes it on once
            preexec_fn=_ending_with(os.getpid()),
        )

    def exit_code(self) -> int | None:
        """Its exit code as a shell says it, 128 and the number of the signal that killed it; None while it runs."""
        code = self._inner.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def killed_by(self) -> signal.Signals | None:
        """The signal that ended it, if one did."""
        code = self._inner.returncode
        return signal.Signals(-code) if code is not None and code < 0 else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone; SIGKILL to its own processes too, which nobody else would end."""
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(self._inner.pid, number)
            else:
                self._inner.send_signal(number)

    def last_words(self, log: Path | None = None) -> list[str]:
        """The last lines that it wrote: to its log, once it has got that far, else to the file without a name."""
        if log is not None and log.is_file() and log.stat().st_mtime >= self._started_at:
            with log.open("rb") as file:
                return _last_lines(file)
        return _last_lines(self.output) if self.output else []


def _last_lines(file: BinaryIO) -> list[str]:
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), TAIL_BYTES, max(size - TAIL_BYTES, 0)).decode(errors="replace")
    return (tail if size <= TAIL_BYTES else tail.partition("\n")[2]).strip().splitlines()[-TAIL_LINES:]


def ftune_command(words: Sequence[str]) -> list[str]:
    """The program with these words, as a process that sees the same modules as this one."""
    is_on_path = str(Path.cwd()) in sys.path  # `python -m ftune` puts the working folder first, `ftune` does not
    return [sys.executable, *([] if is_on_path else ["-P"]), "-m", "ftune", *words]


def _environment(given: Mapping[str, str], world: World, share: Share) -> dict[str, str]:
    threads = str(max(1, count_cores() // world.local_count))
    wanted = {"OMP_NUM_THREADS": threads}
    interface = interface_to(share.host) if share.nodes > 1 else None
    if interface and interface != "lo":
        wanted["GLOO_SOCKET_IFNAME"] = interface
    command = shlex.join(["ftune", *sys.argv[1:]])
    return {**wanted, **given, **variables(world, share.host, share.port), LAUNCHER: command}


def _ending_with(parent: int) -> Callable[[], None] | None:
    """What makes a new process get SIGTERM when `parent` has died, be it by kill -9; run between fork and exec."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(128 + signal.SIGTERM)

    return bind
