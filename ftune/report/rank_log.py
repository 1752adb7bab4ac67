"""`logs/rank{K}.txt`: what each process of a run says, and where it stands when it has stood still for long."""

import faulthandler
import os
import sys
from pathlib import Path

from ftune.core.checkpoints import storage_errors
from ftune.core.say import Say

STALL_S = 300.0
"""A process in which nothing has moved for so long writes down where each of its threads is."""


class RankLog:
    """The log file of one process. The first one speaks on the terminal too, the others only here."""

    def __init__(self, run_dir: Path, rank: int, say: Say) -> None:
        """Raises StorageError."""
        path = run_dir / "logs" / f"rank{rank}.txt"
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        if rank == 0:
            say.keep(self._file)
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor in (1, 2):
                os.dup2(self._file.fileno(), descriptor)

    def moved(self) -> None:
        """Start the wait for a stall anew."""
        faulthandler.dump_traceback_later(STALL_S, repeat=True, file=self._file)

    def close(self) -> None:
        """Wait for nothing any more. The file stays open: what comes after still goes there."""
        faulthandler.cancel_dump_traceback_later()
