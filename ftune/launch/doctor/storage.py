"""Disks: room, kind of file system, and whether what checkpoints rely on works there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftune.core.paths import expanded, user_cache
from ftune.launch.doctor.finding import GIB, Finding, error, ok, size, warning

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "davfs"}
"""File systems of one server: slow with small files, locks that may not hold."""
PARALLEL = {"lustre", "gpfs", "beegfs", "ceph", "wekafs", "fuse.glusterfs", "panfs", "orangefs", "virtiofs"}
"""Network file systems that are made for many writers."""
MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True)
class Folder:
    """A folder that a run writes to, and what was seen of it."""

    role: str
    """What it is for, in words."""
    path: str
    is_lasting: bool
    """It must outlive the machine: the output folder."""
    free: int = 0
    total: int = 0
    system: str = ""
    """File system, as the kernel calls it; empty where it does not say."""
    trouble: str = ""
    """Why nothing can be written; empty where it can."""
    no_sync: str = ""
    """Why a file or a folder cannot be fsynced, or a folder not be renamed; empty where all that works."""


def gather(output: Path, cache: Path) -> list[Folder]:
    """The output folder, ftune's cache, the hub's cache and the folder for temporary files."""
    home = expanded(os.environ.get("HF_HOME") or user_cache() / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    temporary = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    return [
        look("output folder", output, is_lasting=True),
        look("cache of ftune", cache),
        look("cache of the hub", hub),
        look("temporary files", temporary, may_be_made=False),
    ]


def look(role: str, path: Path, *, is_lasting: bool = False, may_be_made: bool = True) -> Folder:
    """Write, sync and rename a trifle there, and remove it again.

    A folder that is not there yet is judged by the nearest one above it.
    """
    there = path.absolute()
    if not may_be_made and not there.is_dir():
        return Folder(role, str(path), is_lasting, trouble="no such folder")
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        return Folder(role, str(path), is_lasting, trouble=f"{there} is not a folder")
    usage = shutil.disk_usage(there)
    system = _file_system(there)
    trouble = no_sync = ""
    try:
        with tempfile.TemporaryDirectory(prefix=".ftune-doctor-", dir=there) as made:
            try:
                _save_as_checkpoints_do(Path(made))
            except OSError as failed:
                no_sync = failed.strerror or str(failed)
    except OSError as failed:
        trouble = failed.strerror or str(failed)
    return Folder(role, str(path), is_lasting, usage.free, usage.total, system, trouble, no_sync)


def judge(folder: Folder) -> Iterator[Finding]:
    """Whether a run can rely on this folder."""
    name = f"{folder.role} {folder.path}"
    if folder.trouble:
        yield error("disk", f"{name}: cannot be written: {folder.trouble}", _elsewhere(folder))
        return
    told = f"{name}: {size(folder.free)} of {size(folder.total)} free" + (f", {folder.system}" * bool(folder.system))
    if folder.no_sync:
        said = f"{told}: a file or folder cannot be synced or renamed there ({folder.no_sync})"
        lasting = f"{said}; a checkpoint could be lost with the machine's power"
        yield error("disk", lasting, _elsewhere(folder)) if folder.is_lasting else ok("disk", told)
    elif folder.free < GIB:
        yield error("disk", f"{told}: nearly full", f"make room, or {_elsewhere(folder)}")
    elif folder.free < 10 * GIB:
        yield warning("disk", f"{told}: little for models and checkpoints", f"make room, or {_elsewhere(folder)}")
    elif folder.system in NETWORK:
        yield warning("disk", f"{told}: one server over the network; slow, and file locks may not hold", _local(folder))
    elif folder.system in MEMORY and folder.is_lasting:
        yield warning("disk", f"{told}: memory, gone when the machine restarts", _elsewhere(folder))
    elif folder.system in PARALLEL:
        yield ok("disk", f"{told}: a parallel file system over the network")
    else:
        yield ok("disk", told)


def _elsewhere(folder: Folder) -> str:
    variable = {"cache of ftune": "FTUNE_CACHE", "cache of the hub": "HF_HOME", "temporary files": "TMPDIR"}
    name = variable.get(folder.role)
    return f"set {name} to a folder on another disk" if name else "choose another output_dir"


def _local(folder: Folder) -> str:
    if folder.is_lasting:
        return "fine for results that all nodes see; keep the caches and TMPDIR on a local disk"
    return _elsewhere(folder).replace("another", "a local")


def _save_as_checkpoints_do(folder: Path) -> None:
    """Sync a file and its folder, and rename one. Raises OSError where the file system cannot."""
    staged = folder / "staged"
    staged.mkdir()
    with (staged / "file").open("wb") as file:
        file.write(b"0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(folder / "named")
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_system(path: Path) -> str:
    """The type of the mount that holds `path`: the longest mount point above it."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return mounted(str(path.resolve()), mounts)


def mounted(path: str, mounts: str) -> str:
    """The file system's type of a path, by a text as `/proc/self/mounts`; of two mounts on one point the later."""
    best, found = "", ""
    for line in mounts.splitlines():
        _, point, system, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        above = point if point.endswith("/") else f"{point}/"
        if f"{path}/".startswith(above) and len(above) >= len(best):
            best, found = above, system
    return found
