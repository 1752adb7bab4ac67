"""The C allocator, tuned for tensors that come and go at every step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next tensors instead of giving it back to the system.

    By default glibc maps and unmaps every large tensor anew, and page faults slow a training step on a CPU down: by a
    factor of 1.07 to 1.2 where it was tried (`scripts/benchmarks/allocator.py` measures it). Returns whether it was
    done: only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    done = [mallopt(name, value) for name, value in wanted.items()]
    return all(done)
