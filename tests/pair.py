"""A module of the tests, run by two processes that exchange tensors."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 600


def run_pair(module: str, folder: Path, *words: str, **variables: str) -> None:
    """Run `python -m MODULE RANK FOLDER WORDS` as ranks 0 and 1; both have to end well."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(folder), *words],
            cwd=ROOT,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=LIMIT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
