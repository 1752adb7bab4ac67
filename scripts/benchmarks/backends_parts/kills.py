"""Runs that lose a process or are asked to stop, and what becomes of them when they are resumed."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends_parts.running import Run, last_error, started
from backends_parts.table import difference

STEPS, EVERY, AT = 20, 6, 8
"""All steps, steps between checkpoints, and the step in whose middle something happens."""

STOPPED = 75


def kill_part(kind: str, processes: int, folder: Path, recipe: Path, words: list[str], limit_s: float) -> Iterator[Any]:
    """The unbroken run of a backend, one that loses its last rank to SIGKILL, one whose launcher gets SIGTERM."""
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
    for case, hurt in (("SIGKILL to a rank", _kill_last), ("SIGTERM to the launcher", _terminate)):
        try:
            told = _broken(recipe, runs / kind / hurt.__name__, own, hurt, losses, limit_s)
        except (LookupError, TimeoutError) as error:
            told = {"error": str(error)}
        yield {**common, "case": case, **told}
    for path in filter(Path.is_dir, (runs / kind).iterdir()):  # what the runs said stays
        shutil.rmtree(path, ignore_errors=True)


def _broken(
    recipe: Path, folder: Path, words: list[str], hurt: Callable[[Run], str], whole: dict[int, float], limit_s: float
) -> dict[str, Any]:
    """Start a run, hurt it in the middle of a step, and resume it. Raises TimeoutError and LookupError."""
    with started(recipe, folder, words) as run:
        if not run.wait_for_step(AT - 1, limit_s):
            raise TimeoutError(f"step {AT - 1} did not come: {last_error(run.said())}")
        times = [event["tokens"] / event["tokens_per_s"] for event in run.events("step")]
        time.sleep(sorted(times)[len(times) // 2] / 2)
        named = hurt(run)
        hurt_at = time.monotonic()
        ended = run.wait(limit_s)
        took, reached = time.monotonic() - hurt_at, max(_losses(run))
    found: dict[str, Any] = {
        "after_step": reached,
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


def _kill_last(run: Run) -> str:
    """SIGKILL to the rank with the highest number, and what names it."""
    ranks = run.ranks()
    os.kill(ranks[max(ranks)], signal.SIGKILL)
    return f"rank {max(ranks)}"


def _terminate(run: Run) -> str:
    """SIGTERM to the launcher, and what the run says of it."""
    run.process.send_signal(signal.SIGTERM)
    return "SIGTERM"


def _losses(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events("step")}
