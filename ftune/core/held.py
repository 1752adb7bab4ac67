"""Folders that a process is writing, so that others leave them alone: a lock of the system's on the folder itself.

The lock ends with its process, however that ends, and leaves no file behind. Where a file system has no such locks
(NFS has none for folders), nobody can tell, and a folder counts as left behind.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ours: dict[str, int] = {}
"""By the path of a folder that this process holds: the descriptor that its lock is on."""


def hold(folder: Path) -> bool:
    """Say that this process is writing `folder`, until `let_go`. Not so, and False, where another one is."""
    let_go(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # a file system without such locks
        pass
    _ours[os.path.realpath(folder)] = descriptor
    return True


def let_go(folder: Path) -> None:
    """Say no longer that this process is writing `folder`, which may have been renamed or removed by now."""
    if (descriptor := _ours.pop(os.path.realpath(folder), None)) is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child may have got the descriptor too
        os.close(descriptor)


def held_by_another(folder: Path) -> bool:
    """Whether another process is writing `folder`."""
    if os.path.realpath(folder) in _ours:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _leave_to_the_parent() -> None:
    """In a child that was forked: it would keep the folders of its parent, which may be gone."""
    for descriptor in _ours.values():
        os.close(descriptor)
    _ours.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """What is done inside of this, one process after the other does for the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
