"""One run of ftune as a user starts it: its processes, its time limit, and what it left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftune.report.events import read_events

AGAIN_S = 3.0
"""A second signal within a second of the first would count as the same request."""

END_S = 15.0
"""After the second signal ftune itself kills what has not ended within 10 s."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int | None
    """None where it had to be ended because its time was up."""
    seconds: float
    said: str


class Run:
    """A run under way; what it says goes to a file beside its folder."""

    def __init__(self, recipe: Path, folder: Path, words: list[str], command: str = "sft") -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        folder.parent.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "ftune", command, str(recipe), f"output_dir={folder}", *words]
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._skip = log.tell()
            self.process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def wait(self, limit_s: float) -> Ended:
        """Until it has ended, or is made to."""
        try:
            code: int | None = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            self.end()
        return Ended(code, time.monotonic() - self._started, self.said())

    def said(self) -> str:
        """All that it said."""
        return self.log.read_bytes()[self._skip :].decode(errors="replace")

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Those of the run's history so far."""
        path = self.folder / "events.jsonl"
        return [event for event in read_events(path) if event["kind"] == kind] if path.is_file() else []

    def wait_for_step(self, step: int, limit_s: float) -> bool:
        """Whether it came that far while it ran, in this time."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until and self.process.poll() is None:
            if any(event["step"] >= step for event in self.events("step")):
                return True
            time.sleep(0.01)
        return False

    def ranks(self) -> dict[int, int]:
        """The process id of each rank. Raises LookupError where there are none."""
        found = {}
        for pid in children(self.process.pid):
            for word in Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"):
                if word.startswith("RANK="):
                    found[int(word.removeprefix("RANK="))] = pid
        if not found:
            raise LookupError(f"process {self.process.pid} has no ranks")
        return found

    def end(self) -> None:
        """Ask twice, as a user does who is in a hurry, and then kill."""
        for pause in (AGAIN_S, END_S):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(pause)
        self.kill()

    def kill(self) -> None:
        """End all of its processes at once; nothing is saved."""
        if self.process.poll() is None:
            for pid in (*children(self.process.pid), self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def started(recipe: Path, folder: Path, words: list[str], command: str = "sft") -> Iterator[Run]:
    """A run that does not outlive the block."""
    run = Run(recipe, folder, words, command)
    try:
        yield run
    finally:
        run.end()


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def last_error(said: str) -> str:
    """The last line that looks like an error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and not line.startswith("[")]
    return (errors or lines or ["nothing was said"])[-1][:400]
