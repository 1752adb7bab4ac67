"""Runs the processes of one node: a signal reaches each of them once, and the end of one in error is that of all.

torchrun's agent would end a process that is still saving 30 s after a signal, and answer 1 where a run says 75.
"""

import math
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ftune.core.errors import StoppedError
from ftune.core.paths import shown
from ftune.core.signals import SAME_REQUEST_S, SIGNALS
from ftune.launch.processes import Process, Share

AFTER_FAILURE_S = ((10.0, signal.SIGTERM), (15.0, signal.SIGKILL))
"""When one process has failed, the others are told why by their own connection and end; these are for those that do
not."""

AFTER_SECOND_SIGNAL_S = ((10.0, signal.SIGKILL),)

FINE = (0, StoppedError.exit_code)
"""Exit codes after which the other processes are waited for as long as they need: done, stopped and saved."""


def supervise(command: Sequence[str], share: Share, logs: Path | None = None) -> int:
    """Run this node's share of a run to its end; the exit code is that of the process that failed first.

    75 where the run was stopped and saved; 128 and the number of a signal where that ended the process. `logs` is the
    folder in which the processes leave theirs.
    """
    with _arriving() as signals:
        node = _Node([Process(command, share, number) for number in range(share.processes)])
        while node.running:
            for number in signals.wait(node.next_due() - time.monotonic()):
                node.ask(number)
            node.look()
            node.insist()
    if said := node.reason(logs):
        print(said, file=sys.stderr, flush=True)
    return node.code()


class _Node:
    """The processes of this node, and what is still to be sent to them."""

    def __init__(self, processes: list[Process]) -> None:
        self.running = processes
        self.ended: list[Process] = []
        self._failed: Process | None = None
        self._killed: list[Process] = []
        self._asked: list[signal.Signals] = []
        self._asked_at = -math.inf
        self._due: list[tuple[float, signal.Signals]] = []

    def ask(self, number: signal.Signals) -> None:
        """Pass a signal on. The processes save after the first and end at once after the second."""
        now = time.monotonic()
        if now < self._asked_at + SAME_REQUEST_S + 0.2:  # they got the first one a little later than the supervisor
            return
        self._asked_at = now
        self._asked.append(number)
        self._send(number)
        if len(self._asked) == 2:
            self._schedule(AFTER_SECOND_SIGNAL_S)

    def look(self) -> None:
        """Take note of those that have ended."""
        for process in [process for process in self.running if process.exit_code() is not None]:
            self.running.remove(process)
            self.ended.append(process)
            if process.exit_code() in FINE:
                continue
            process.send(signal.SIGKILL)  # to what it has started and left behind
            if self._failed is None:
                self._failed = process
                self._schedule(AFTER_FAILURE_S)

    def next_due(self) -> float:
        """When something is to be sent, or never."""
        return min((moment for moment, _ in self._due), default=math.inf)

    def insist(self) -> None:
        """Send what is due."""
        for due in [due for due in self._due if due[0] <= time.monotonic()]:
            self._due.remove(due)
            if due[1] == signal.SIGKILL:
                self._killed += self.running
            self._send(due[1])

    def code(self) -> int:
        """The exit code of the run."""
        if self._failed in self._killed:
            return 128 + self._asked[-1]  # it was to end at once, and did not
        failed = self._failed.exit_code() if self._failed else None
        return failed or max(process.exit_code() or 0 for process in self.ended)

    def reason(self, logs: Path | None) -> str:
        """Which process failed first, and its last words, unless it was to end or rank 0 has said why."""
        failed = self._failed
        if failed is None or len(self._asked) > 1:
            return ""
        if failed.killed_by is not None:
            if failed.killed_by in self._asked:
                return f"stopped by {failed.killed_by.name}"
            memory = "; the kernel does so when memory runs out ('dmesg')" if failed.killed_by == signal.SIGKILL else ""
            return f"error: rank {failed.world.rank} was killed by {failed.killed_by.name}{memory}"
        if any(
            process.speaks and process.killed_by is None and process.exit_code() not in FINE for process in self.ended
        ):
            return ""
        log = logs / f"rank{failed.world.rank}.txt" if logs else None
        more = f"; see {shown(log)}" if log and log.exists() else ""
        words = "".join(f"\n  {line}" for line in failed.last_words(log))
        return f"error: rank {failed.world.rank} ended with exit code {failed.exit_code()}{more}{words}"

    def _send(self, number: signal.Signals) -> None:
        for process in self.running:
            process.send(number)

    def _schedule(self, later: Sequence[tuple[float, signal.Signals]]) -> None:
        now = time.monotonic()
        self._due += [(now + seconds, number) for seconds, number in later]


class _Signals:
    """Signals in the order in which they came."""

    def __init__(self, arrivals: socket.socket) -> None:
        self._arrivals = arrivals

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """The requests that have come; returns too when a process has ended, or after a time."""
        limit = None if timeout_s == math.inf else max(timeout_s, 0.0)
        if not select.select([self._arrivals], [], [], limit)[0]:
            return []
        return [signal.Signals(number) for number in self._arrivals.recv(4096) if number in SIGNALS]


@contextmanager
def _arriving() -> Iterator[_Signals]:
    """Take over the signals inside: Python writes the number of each into a socket, and nothing runs in a handler."""
    arrivals, source = socket.socketpair()
    with arrivals, source:
        source.setblocking(False)
        before = {number: signal.signal(number, _nothing) for number in (*SIGNALS, signal.SIGCHLD)}
        earlier = signal.set_wakeup_fd(source.fileno(), warn_on_full_buffer=False)
        try:
            yield _Signals(arrivals)
        finally:
            signal.set_wakeup_fd(earlier)
            for number, handler in before.items():
                signal.signal(number, handler)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Stand in for the default, so that the signal does not end this process."""
