"""Runs that lose a process or are asked to stop, and what becomes of them when they are resumed."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends_parts.running import Run, last_error, started
from backends_parts.table import difference
from ftune.core.checkpoints import staged

STEPS, EVERY, AT = 20, 6, 8
"""All steps, steps between checkpoints, and the step in whose middle something happens."""

STOPPED = 75


@dataclass(frozen=True, slots=True)
class Case:
    """Something that happens to a run."""

    name: str
    wait: Callable[[Run, float], None]
    """Returns at the moment when it happens. Raises TimeoutError after so many seconds."""
    hurt: Callable[[Run], str]
    """Does it, and gives the words by which the run has to name it."""

    @property
    def folder(self) -> str:
        """Of its run."""
        return self.name.lower().replace(" ", "-")


def kill_each(
    kinds: Sequence[str],
    processes: int,
    folder: Path,
    recipe: Path,
    words: list[str],
    limit_s: float,
    cases: Sequence[Case],
    keep: Callable[[Any], None],
) -> None:
    """All cases of several backends at once, since their speed does not matter here; `keep` is given each result."""

    def run(kind: str) -> None:
        try:
            for result in kill_part(kind, processes, folder, recipe, words, limit_s, cases):
                keep(result)
        except Exception as error:  # the other backend is told of all the same
            keep({"part": "kill", "backend": kind, "processes": processes, "error": f"not measured: {error!r}"})

    with ThreadPoolExecutor(len(kinds)) as threads:
        list(threads.map(run, kinds))


def kill_part(
    kind: str, processes: int, folder: Path, recipe: Path, words: list[str], limit_s: float, cases: Sequence[Case]
) -> Iterator[Any]:
    """The unbroken run of a backend, and one for each case, which is resumed."""
    own = [f"backend.type={kind}", f"backend.num_processes={processes}", *words]
    runs = folder / "kills"
    shutil.rmtree(runs / kind, ignore_errors=True)
    with started(recipe, runs / kind / "whole", own) as whole:
        ended = whole.wait(limit_s)
    common = {"part": "kill", "backend": kind, "processes": processes}
    if ended.code != 0:
        yield {**common, "case": "whole", "error": last_error(ended.said)}
        return
    losses = _losses(whole)
    yield {**common, "case": "whole", "run_s": round(ended.seconds, 1), "losses": list(losses.values())}
    for case in cases:
        try:
            told = _broken(recipe, runs / kind / case.folder, own, case, losses, limit_s)
        except (LookupError, TimeoutError) as error:
            told = {"error": str(error)}
        yield {**common, "case": case.name, **told}
    for path in filter(Path.is_dir, (runs / kind).iterdir()):  # what the runs said stays
        shutil.rmtree(path, ignore_errors=True)


def _broken(
    recipe: Path, folder: Path, words: list[str], case: Case, whole: dict[int, float], limit_s: float
) -> dict[str, Any]:
    """Start a run, hurt it, and resume it. Raises TimeoutError and LookupError."""
    with started(recipe, folder, words) as run:
        case.wait(run, limit_s)
        named = case.hurt(run)
        hurt_at, in_a_save = time.monotonic(), _unfinished(run).is_dir()
        ended = run.wait(limit_s)
        took, reached = time.monotonic() - hurt_at, max(_losses(run))
    found: dict[str, Any] = {
        "after_step": reached,
        "in_a_save": in_a_save,
        "ended_after_s": round(took, 1),
        "exit_code": ended.code,
        "named": named in ended.said,
        "said": last_error(ended.said) if ended.code != STOPPED else "",
    }
    with started(recipe, folder, [*words, "--resume"]) as resumed:
        again = resumed.wait(limit_s)
    found |= {"resumed_exit_code": again.code}
    if again.code != 0:
        return {**found, "error": last_error(again.said)}
    kept = [event["step"] for event in resumed.events("resumed")]
    after = {step: loss for step, loss in _losses(resumed).items() if kept and step > kept[-1]}
    wanted = [whole[step] for step in after]
    return {
        **found,
        "resumed_from": kept[-1] if kept else 0,
        "all_steps": [*_losses(resumed)] == [*whole],
        "losses_equal": list(after.values()) == wanted,
        "losses_differ": difference(list(after.values()), wanted, len(wanted)),
    }


def _in_a_step(run: Run, limit_s: float) -> None:
    if not run.wait_for_step(AT - 1, limit_s):
        raise TimeoutError(f"step {AT - 1} did not come: {last_error(run.said())}")
    times = [event["tokens"] / event["tokens_per_s"] for event in run.events("step")]
    time.sleep(sorted(times)[len(times) // 2] / 2)


def _in_a_save(run: Run, limit_s: float) -> None:
    """While the second checkpoint is written: there is one to go on from."""
    until = time.monotonic() + limit_s
    while not _unfinished(run).is_dir():  # without a pause: a small one is written within milliseconds
        if time.monotonic() > until or run.process.poll() is not None:
            raise TimeoutError(f"no checkpoint was written at step {2 * EVERY}: {last_error(run.said())}")


def _unfinished(run: Run) -> Path:
    """Where the second checkpoint lies until it is whole."""
    return staged(run.folder, 2 * EVERY)


def _kill_last(run: Run) -> str:
    """SIGKILL to the rank with the highest number, and what names it."""
    ranks = run.ranks()
    os.kill(ranks[max(ranks)], signal.SIGKILL)
    return f"rank {max(ranks)}"


def _terminate(run: Run) -> str:
    """SIGTERM to the launcher, and what the run says of it."""
    run.process.send_signal(signal.SIGTERM)
    return "SIGTERM"


CASES = (
    Case("SIGKILL to a rank", _in_a_step, _kill_last),
    Case("SIGTERM to the launcher", _in_a_step, _terminate),
)
IN_A_SAVE = Case("SIGKILL to a rank in a save", _in_a_save, _kill_last)


def _losses(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events("step")}
