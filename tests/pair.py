"""A module of the tests, run by two processes that exchange tensors."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.forked import start

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
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **variables}
    said = [folder / f"said.{rank}" for rank in range(2)]
    ranks = [start(module, [str(rank), str(folder), *words], ROOT, environment, said[rank]) for rank in range(2)]
    until = time.monotonic() + LIMIT_S
    try:
        for rank in ranks:
            rank.join(max(0.0, until - time.monotonic()))
    finally:
        for rank in ranks:
            rank.kill()
    told = "\n".join(log.read_text(errors="replace") for log in said)
    assert [rank.exitcode for rank in ranks] == [0, 0], told
