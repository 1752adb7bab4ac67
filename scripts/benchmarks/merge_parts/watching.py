"""A program watched while it runs: its time, its processors' time, and its memory of two kinds.

What Linux calls resident counts pages of mapped files too, which are the disk's cache and go when memory is wanted.
Anonymous memory is what the program has allocated, and what it needs.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.02
PROC = Path("/proc")
ALLOCATED = ("RssAnon", "RssShmem")


@dataclass(frozen=True, slots=True)
class Watched:
    """What a program took."""

    seconds: float
    """From its start to its end, with its imports."""
    cpu_s: float
    resident_gib: float
    """The peaks (VmHWM) of all its processes, added."""
    anonymous_gib: float
    """The highest sum of what its processes have allocated at one time."""
    said: list[tuple[float, str]]
    """Its lines on stderr, and after how many seconds each came."""


def watch(command: Sequence[str], env: dict[str, str]) -> Watched:
    """Run a program to its end. Raises RuntimeError with its last lines where it fails."""
    started, said = time.monotonic(), list[tuple[float, str]]()
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )

    def listen() -> None:
        assert process.stderr is not None
        said.extend((time.monotonic() - started, line.rstrip()) for line in process.stderr)

    listener = threading.Thread(target=listen)
    listener.start()
    peaks: dict[int, int] = {}
    anonymous = 0
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        sizes = {pid: _sizes(pid) for pid in _tree(process.pid)}
        anonymous = max(anonymous, sum(size.get(kind, 0) for size in sizes.values() for kind in ALLOCATED))
        peaks |= {pid: size["VmHWM"] for pid, size in sizes.items() if "VmHWM" in size}
        time.sleep(SAMPLE_S)
    seconds = time.monotonic() - started
    listener.join()
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: " + "\n".join(line for _, line in said[-5:]))
    peaks[process.pid] = max(peaks.get(process.pid, 0), usage.ru_maxrss)
    kib = 2**20
    return Watched(seconds, usage.ru_utime + usage.ru_stime, sum(peaks.values()) / kib, anonymous / kib, said)


def _tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        for thread in (PROC / str(one) / "task").glob("*"):
            found += [int(child) for child in _text(thread / "children").split()]
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:  # it has ended
        return ""


def _sizes(pid: int) -> dict[str, int]:
    """KiB by the names in `/proc/PID/status`; nothing of a process that has ended."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(PROC / f"{pid}/status"), re.MULTILINE)
    return {name: int(size) for name, size in lines}
