"""A module of the tests, run by two processes that exchange tensors."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from tests.forked import start

ROOT = Path(__file__).parents[1]
LIMIT_S = 540
"""Less than the limit of a test: what a rank said shall be shown."""
NEWS_S = 10.0
"""How long a rank goes on when the other has failed."""
LINES = 60


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


@contextmanager
def group(rank: int, meeting: Path) -> Iterator[None]:
    """The process group of a pair, which meets by a file. Neither leaves it while the other may still listen to it."""
    from torch import distributed

    store = distributed.FileStore(str(meeting), 2)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    yield
    store.set(f"done/{rank}", "")
    store.wait([f"done/{number}" for number in range(2)], timedelta(seconds=LIMIT_S))
    distributed.destroy_process_group()


def run_pair(module: str, folder: Path, *words: str, **variables: str) -> None:
    """Run `python -m MODULE RANK FOLDER WORDS` as ranks 0 and 1; both have to end well."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **variables}
    said = [folder / f"said.{rank}" for rank in range(2)]
    ranks = [start(module, [str(rank), str(folder), *words], ROOT, environment, said[rank]) for rank in range(2)]
    until = time.monotonic() + LIMIT_S
    try:
        while any(rank.is_alive() for rank in ranks) and time.monotonic() < until:
            if any(rank.exitcode for rank in ranks):  # the other may wait for it
                until = min(until, time.monotonic() + NEWS_S)
            time.sleep(0.05)
        for rank in ranks:
            if rank.is_alive():
                os.kill(rank.pid or 0, signal.SIGABRT)  # it writes where it stands
                rank.join(NEWS_S)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    codes = [rank.exitcode for rank in ranks]
    ends = [f"rank {rank} ended with {codes[rank]} and said last:\n{end_of(log)}" for rank, log in enumerate(said)]
    assert codes == [0, 0], "\n".join(ends)


def end_of(log: Path) -> str:
    """Its last lines: what ended a process stands there, behind thousands of warnings."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
