"""What one of two processes does for `test_ranks.py`: one of them fails in work that ends on both or on none."""

import json
import os
import sys
from pathlib import Path

from ftune.backends.ranks import Ranks
from ftune.core.errors import StorageError

FAILURES = {"says": StorageError("disk: no space left"), "does not say": KeyError("no such word")}


def work(failure: Exception | None) -> None:
    if failure is not None:
        raise failure


def main(rank: int, folder: Path, port: str, who: int, how: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        with Ranks.meet() as ranks, ranks.together(StorageError):
            work(failure=FAILURES[how] if rank == who else None)
    except Exception as error:
        found = [type(error).__name__, str(error), getattr(error, "exit_code", None)]
        (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
