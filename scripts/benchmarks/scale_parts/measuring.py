"""A job measured: by the events of a run as a user starts it, which ends behind its last step."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends_parts.kills import IN_A_SAVE, kill_each
from backends_parts.measuring import facts
from backends_parts.running import Run, last_error, started
from ppo_parts.iteration import ITERATIONS, parts_of

from ftune.recipes.runs.plan_command import Wanted, planned
from scale_parts.material import Material
from scale_parts.settings import COMPARED, STEPS, UNTIMED, Job

Result = dict[str, Any]
GIB = 2**30

KILLED = ("ddp", "fsdp")
"""Backends whose runs lose a process."""


def measure(job: Job, material: Material, words: list[str], limit_s: float) -> list[Result]:
    """The results of a job: `left_out` where it would not fit, `error` where it failed or its time was up."""
    material.ready(job)
    recipe = material.recipe(job)
    if job.setting.kind == "kill":
        return _killed(job, recipe, words, limit_s)
    own = [*job.words(material.sizes[job.setting.model]), *words]
    found = named(job)
    if reason := too_large(recipe, own):
        return [{**found, "left_out": reason}]
    folder = material.folder / "runs" / job.file
    if job.setting.kind == "ppo":
        found["completions"] = material.work.prompts * job.gpus
        return [{**found, **_measured(recipe, folder, own, "ppo", ITERATIONS, _told_of_ppo, limit_s)}]
    steps = COMPARED if job.rows_of else STEPS[job.setting.model]
    return [{**found, **_measured(recipe, folder, own, "sft", steps, _told, limit_s)}]


def named(job: Job) -> Result:
    """What every result says of its job."""
    return {"setting": job.setting.name, "kind": job.setting.kind, "gpus": job.gpus, "rows_of": job.rows_of}


def too_large(recipe: Path, words: list[str]) -> str:
    """Why a recipe would not fit into the GPUs of this machine, as `ftune plan` has it; empty where it does."""
    plan = json.loads(planned(recipe, words, Wanted(), as_json=True))
    gpu = plan["gpu"]
    if gpu is None or gpu["fits"]:
        return ""
    return f"{plan['total'] / GIB:.1f} GiB predicted, the GPU has {gpu['usable'] / GIB:.1f}"


def _measured(
    recipe: Path,
    folder: Path,
    words: list[str],
    command: str,
    steps: int,
    told: Callable[[Run, int], Result],
    limit_s: float,
) -> Result:
    """Start a run, and end it with its last step: saving the result says nothing of speed and takes long.

    What the run said stays, beside its folder.
    """
    with started(recipe, folder, [*words, "--overwrite"], command) as run:
        began = time.monotonic()
        done = run.wait_for_step(steps, limit_s)
        took = time.monotonic() - began
        alive = run.process.poll() is None
        run.kill()
        found = {**told(run, steps), "run_s": round(took, 1)}
    if not done and not found.get("steps", 0) >= steps:  # it may have ended between two looks
        why = f"not done within {limit_s:.0f} s: " if alive else ""
        found["error"] = why + last_error(run.said())
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _told(run: Run, steps: int) -> Result:
    return facts(run, int(steps * UNTIMED))


def _told_of_ppo(run: Run, steps: int) -> Result:
    """Seconds of an iteration and of its parts, and memory beside its prediction."""
    iterations, predicted = run.events("step"), run.events("predicted")
    found: Result = {"steps": len(iterations)}
    if predicted:
        found["predicted_gib"] = predicted[-1]["memory_gib"]
    if len(iterations) >= steps:
        parts = parts_of(iterations)
        found |= {"parts_s": parts, "iteration_s": round(sum(parts.values()), 3)}
        found["memory_gib"] = max(event["memory_gib"] for event in iterations)
    return found


def _killed(job: Job, recipe: Path, words: list[str], limit_s: float) -> list[Result]:
    """A rank of each backend is killed in the middle of a save, and the run goes on."""
    found: list[Result] = []
    kill_each(KILLED, job.gpus, recipe.parent, recipe, words, limit_s, [IN_A_SAVE], found.append)
    return [{**named(job), **result} for result in found]
