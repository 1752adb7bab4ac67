"""The recipe of a setting, which every way to train reads, and what it says as plain values."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_parts.work import ALPHA, RANK, Job, Setting

if TYPE_CHECKING:
    from ftune.data.prepared import Prepared
    from ftune.recipes.sft import SftRecipe

ACCUMULATION = 4
"""Unpacked micro-batches of a step: rows are a quarter as long as the longest, on average."""


def write_recipe(setting: Setting, folder: Path, *, longest: int, rows: int) -> Path:
    """With the shipped defaults, but for what the setting asks for and the tokens of a step."""
    recipe: dict[str, Any] = {
        "type": "sft",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl"), "max_length": longest},
        "peft": {"type": "full"} if setting.full else {"type": "lora", "rank": RANK, "alpha": ALPHA},
        "optim": {"learning_rate": 1e-5},
        "schedule": {"type": "constant"},
        "batch": {
            "micro_batch_size": rows // setting.passes,
            "gradient_accumulation_steps": ACCUMULATION * setting.passes,
        },
        "checkpoint": {"every": "never"},
    }
    if setting.checkpointing or setting.selective:
        recipe["batch"]["activation_checkpointing"] = "selective" if setting.selective else True
    if setting.offload:
        recipe["batch"]["activation_offload"] = True
    if setting.quantized:
        recipe["model"]["quantization"] = {"type": "nf4"}
    path = folder / f"{setting.name.replace(' ', '-').replace(',', '')}.json"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    return path


def read(job: Job) -> "tuple[SftRecipe, Prepared, str]":
    """The recipe, its rows as ftune prepares them, and where the model lies."""
    from ftune.core.say import Say
    from ftune.recipes.load import load_recipe
    from ftune.recipes.runs.inputs import load_inputs

    recipe: Any = load_recipe("rm" if job.setting.pairs else "sft", Path(job.recipe), []).recipe
    inputs = load_inputs(recipe, Say())
    return recipe, inputs.train, inputs.located
