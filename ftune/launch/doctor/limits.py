"""What the system grants a process: shared memory, open files, locked memory, cores, memory."""

import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftune.launch.doctor.finding import GIB, Finding, error, ok, size, warning

SHARED_MEMORY = GIB
"""What NCCL's buffers and the loader's workers of one node take at most times; containers give 64 MiB."""
OPEN_FILES = 1024
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class LimitFacts:
    """Limits of this process; None is no limit, or one that cannot be told."""

    shm_total: int | None
    shm_free: int | None
    open_files: int | None
    locked_bytes: int | None
    rdma: tuple[str, ...]
    """RDMA devices (InfiniBand, RoCE), as the kernel calls them."""
    cores_shown: int
    cores_usable: int
    """By the affinity of this process."""
    cores_granted: float | None
    """By the cgroup's share of time."""
    memory: int
    memory_granted: int | None
    """By the cgroup."""
    cpu: str
    threads_set: str | None
    """OMP_NUM_THREADS."""


def gather(environment: dict[str, Any]) -> LimitFacts:
    """From the kernel; name and threads of the processor from `report.environment`."""
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - the mount itself
    files, locked = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK))
    infiniband = Path("/sys/class/infiniband")
    cores, memory = cgroup_limits(Path("/proc/self/cgroup"), CGROUPS)
    return LimitFacts(
        shm_total=shm.total if shm else None,
        shm_free=shm.free if shm else None,
        open_files=None if files == resource.RLIM_INFINITY else files,
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
        rdma=tuple(sorted(path.name for path in infiniband.iterdir())) if infiniband.is_dir() else (),
        cores_shown=os.cpu_count() or 1,
        cores_usable=int(environment["cpu"]["threads"] or 1),
        cores_granted=cores,
        memory=int(environment["memory_gib"] * GIB),
        memory_granted=memory,
        cpu=str(environment["cpu"]["model"]),
        threads_set=os.environ.get("OMP_NUM_THREADS"),
    )


def judge(facts: LimitFacts, processes: int) -> Iterator[Finding]:
    """`processes`: how many a run starts on this node."""
    yield from _cores(facts, processes)
    yield from _memory(facts)
    yield from _shared_memory(facts, processes)
    if facts.open_files is not None and facts.open_files < OPEN_FILES:
        yield warning(
            "limits",
            f"a process may open only {facts.open_files} files: loaders and sockets of many processes may not fit",
            "ulimit -n 65536",
        )
    else:
        yield ok("limits", f"a process may open {facts.open_files or 'any number of'} files")
    if facts.rdma and facts.locked_bytes is not None:
        yield warning(
            "limits",
            f"RDMA devices are here ({', '.join(facts.rdma)}), but a process may lock only {size(facts.locked_bytes)}: "
            "NCCL fails or falls back to TCP",
            "ulimit -l unlimited (docker run --ulimit memlock=-1)",
        )
    elif facts.rdma:
        yield ok("limits", f"RDMA devices: {', '.join(facts.rdma)}; a process may lock memory without limit")
    else:
        yield ok("limits", "no RDMA devices: nodes talk over TCP")


def _cores(facts: LimitFacts, processes: int) -> Iterator[Finding]:
    usable = min(facts.cores_usable, facts.cores_granted or facts.cores_usable)
    told = f"{facts.cpu}: {usable:g} of {facts.cores_shown} cores may be used"
    if usable < facts.cores_usable and facts.threads_set is None:
        yield warning(
            "cpu",
            f"{told}, by the cgroup's share of time; torch starts {facts.cores_usable} threads and they wait in turn",
            f"export OMP_NUM_THREADS={max(1, int(usable) // processes)}",
        )
    elif usable < processes:
        yield warning("cpu", f"{told}, for {processes} processes", "give the job a core a process at least")
    else:
        yield ok("cpu", told)


def _memory(facts: LimitFacts) -> Iterator[Finding]:
    if facts.memory_granted is not None and facts.memory_granted < facts.memory:
        yield warning(
            "memory",
            f"the cgroup grants {size(facts.memory_granted)} of {size(facts.memory)}: above it a process is killed",
            "ask for more (--mem, --memory) if loading the model does not fit",
        )
    else:
        yield ok("memory", size(facts.memory))


def _shared_memory(facts: LimitFacts, processes: int) -> Iterator[Finding]:
    if facts.shm_total is None or facts.shm_free is None:
        yield warning("shm", "there is no /dev/shm: loaders with workers and NCCL need it", "mount a tmpfs there")
        return
    told = f"shared memory: {size(facts.shm_free)} of {size(facts.shm_total)} free"
    if facts.shm_free >= SHARED_MEMORY:
        yield ok("shm", told)
        return
    remedy = "docker run --shm-size=8g (or --ipc=host); Kubernetes: an emptyDir of medium Memory at /dev/shm"
    said = f"{told}; loaders with workers end with 'bus error'"
    if processes > 1:
        yield error("shm", f"{said}, and NCCL between {processes} processes too", remedy)
    else:
        yield warning("shm", said, remedy)


def cgroup_limits(membership: Path, root: Path) -> tuple[float | None, int | None]:
    """Cores and bytes of memory that the cgroups of this process grant; the tightest from the process to the root.

    Reads both versions: 2 (`cpu.max`, `memory.max`) and 1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`).
    """
    cores: list[float] = []
    memory: list[int] = []
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # in a container the path may be that of the host: the mount itself is then the group
        for base in [root / name for name in controllers.split(",")] if controllers else [root, root / "unified"]:
            group = base / path.lstrip("/")
            for folder in [group, *group.parents]:
                if not folder.is_relative_to(base):
                    break
                cores += _cores_of(folder)
                memory += _memory_of(folder)
    return min(cores, default=None), min(memory, default=None)


def _cores_of(group: Path) -> list[float]:
    words = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(words) == 2 and words[0] not in ("max", "-1"):
        return [int(words[0]) / int(words[1])]
    return []


def _memory_of(group: Path) -> list[int]:
    words = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    return [int(words[0])] if words and words[0] != "max" else []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
