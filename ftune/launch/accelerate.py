"""The configuration of `accelerate launch`, and DeepSpeed's, that says the same as a recipe."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from ftune.backends.base import Backend
from ftune.backends.machine import count_gpus
from ftune.core.checkpoints import storage_errors, write_atomically
from ftune.core.errors import LaunchError
from ftune.core.paths import shown
from ftune.recipes.base import Recipe
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.runs.place import shape_of
from ftune.recipes.training import TrainingRecipe

CONFIG, DEEPSPEED = "accelerate.yaml", "deepspeed.json"


def write_config(recipe: Recipe, folder: Path) -> Path:
    """Write `accelerate.yaml` into a folder, and `deepspeed.json` for DeepSpeed's backend; the path of the former.

    Processes and precision that the recipe leaves open are those of this machine. Raises LaunchError for a recipe of
    a command without a backend and for files that are there with other content, StorageError where none can be written.
    """
    if not isinstance(recipe, TrainingRecipe | PpoRecipe):
        raise LaunchError(f"type: recipes of '{recipe.resolved()['type']}' have no backend; there is nothing to launch")
    if isinstance(recipe, TrainingRecipe):
        for key, wanted in (("micro_batch_size", "a number"), ("activation_checkpointing", "true, selective or false")):
            if getattr(recipe.batch, key) == "auto":
                raise LaunchError(f"batch.{key}: 'auto' is chosen where the run computes; a file needs {wanted}")
    gpus = count_gpus()
    backend: Backend = recipe.backend.resolve(None, os.environ, gpus)
    shape = shape_of(
        recipe,
        processes=backend.local_processes(gpus),
        nodes=backend.nodes,
        on_gpu=backend.on_gpu(gpus),
        deepspeed_file=str(folder / DEEPSPEED),
    )
    deepspeed = backend.deepspeed_config(shape)
    texts = {CONFIG: yaml.safe_dump(backend.accelerate_config(shape), sort_keys=False)}
    if deepspeed is not None:
        texts[DEEPSPEED] = json.dumps(deepspeed, indent=2) + "\n"
    for name, text in texts.items():
        _check_free(folder / name, text)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return folder / CONFIG


def command_line(config: Path, recipe: Recipe, path: Path, overrides: Sequence[str] = ()) -> str:
    """What starts the recipe with that configuration; on several nodes, on each of them."""
    words = ["accelerate", "launch", "--config_file", shown(config)]
    backend = getattr(recipe, "backend", None)
    more = " --machine_rank K --main_process_ip HOST --main_process_port PORT" if backend and backend.nodes > 1 else ""
    program = ["-m", "ftune", str(recipe.resolved()["type"]), str(path), *overrides]
    return f"{shlex.join(words)}{more} {shlex.join(program)}"


def _check_free(file: Path, text: str) -> None:
    if file.exists() and file.read_bytes() != text.encode():
        raise LaunchError(f"{shown(file)}: is there with other content; remove it, or give another --output")
