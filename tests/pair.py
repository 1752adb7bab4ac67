"""A module of the tests, run by two processes that exchange tensors."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
LIMIT_S = 600


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that `make` fills: once for all workers of pytest, which share what is expensive."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            place.mkdir()
            make(place)
            done.touch()
    return place


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
