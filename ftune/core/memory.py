"""Memory of this machine that programs may still take."""

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def free_memory() -> int:
    """Bytes; what Linux only keeps of files on the disk, and gives up when it is asked to, is free too."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
