"""A setting measured by a run of `ftune sft`, from the events and files that it leaves."""

import shutil
import statistics
from datetime import datetime
from pathlib import Path
from typing import Any

from backends_parts.running import Run, last_error, started
from backends_parts.settings import Setting

UNTIMED = 6
"""The first steps, which warm up."""


def measure(
    setting: Setting,
    gpus: int,
    recipe: Path,
    words: list[str],
    drive: Path,
    *,
    micro: int,
    steps: int,
    limit_s: float,
) -> dict[str, Any]:
    """The facts of a run, which is removed; with `error`, its last words, where it failed or its time was up.

    The run's folder lies beside the recipe; `drive` is for what is offloaded to NVMe, and removed too.
    """
    folder = recipe.parent
    run_folder = folder / "runs" / f"{setting.name}-{gpus}"
    drive.mkdir(parents=True, exist_ok=True)
    settings = setting.overrides(gpus, micro=micro, steps=steps, drive=str(drive))
    found: dict[str, Any] = {"setting": setting.name, "gpus": 1 if setting.alone else gpus}
    if setting.same_rows:
        found["rows_of"] = gpus
    with started(recipe, run_folder, [*settings, *words, "--overwrite"]) as run:
        ended = run.wait(limit_s)
    found |= {"exit_code": ended.code, "run_s": round(ended.seconds, 1), **facts(run)}
    if ended.code is None:
        found["error"] = f"not done within {limit_s:.0f} s: {last_error(ended.said)}"
    elif ended.code:
        found["error"] = last_error(ended.said)
    else:
        found |= {"save_s": save_seconds(run), "fault": fault_of(run_folder / "model", folder / "model")}
    for path in (run_folder, drive):
        shutil.rmtree(path, ignore_errors=True)
    return found


def facts(run: Run, untimed: int = UNTIMED) -> dict[str, Any]:
    """What the events of a run say, which may have ended early."""
    steps, models = run.events("step"), run.events("model")
    found: dict[str, Any] = {}
    if predicted := run.events("predicted"):
        found["predicted_gib"] = predicted[-1]["memory_gib"]
    if models:
        found |= {key: models[-1][key] for key in ("parameters", "dtype", "device", "processes")}
    if steps:
        timed = steps[untimed:] or steps
        found |= {
            "steps": len(steps),
            "tokens_of_a_step": steps[-1]["tokens"],
            "tokens_per_s": statistics.median(event["tokens_per_s"] for event in timed),
            "memory_gib": max(event["memory_gib"] for event in steps),
            "losses": [event["loss"] for event in steps],
        }
    if saved := run.events("checkpoint"):
        found["checkpoint_s"] = saved[-1]["seconds"]
    return found


def save_seconds(run: Run) -> float | None:
    """From the last step (or the checkpoint after it) to the moment when the result got its name; None without one."""
    before, result = run.events("checkpoint") or run.events("step"), run.folder / "model"
    if not before or not result.is_dir():
        return None
    last, named = before[-1], result.stat().st_ctime  # renaming a folder changes its status
    return round(named - datetime.fromisoformat(last["time"]).timestamp(), 1)


def fault_of(result: Path, base: Path) -> str:
    """What is wrong with a result; empty where it has all tensors of the base, in shape, finite and trained."""
    import torch

    before, after = _tensors(base), _tensors(result)
    if before.keys() != after.keys():
        return f"tensors differ: {sorted(before.keys() ^ after.keys())[:4]}"
    for name, value in after.items():
        if value.shape != before[name].shape:
            return f"{name} has shape {tuple(value.shape)}, {tuple(before[name].shape)} before"
        if not torch.isfinite(value).all():
            return f"{name} is not finite"
        if torch.equal(value.float(), before[name].float()):
            return f"{name} is as before"
    return ""


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
