"""Recipes of `ftune ppo` for the tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftune.recipes.load import load_recipe
from ftune.recipes.ppo import PpoRecipe

BASE: dict[str, Any] = {
    "type": "ppo",
    "data": {"train": "rows.jsonl", "max_length": 128},
    "rewards": [{"type": "length", "unit": "characters", "max": 3}],
    "rollout": {"type": "generate", "batch_size": 8, "max_new_tokens": 6},
    "ppo": {"minibatch_size": 4, "micro_batch_size": 4},
    "optim": {"learning_rate": 0.005},
    "schedule": {"iterations": 2},
    "checkpoint": {"every": 1},
    "log": {"samples_every": 1, "samples": 2},
    "batch": None,
}


def ppo_recipe(recipe: Callable[..., Path], **sections: Any) -> Path:
    """A recipe file; sections replace those of BASE, and None takes one away."""
    import yaml

    path = recipe(**{**BASE, **sections})
    kept = {name: section for name, section in yaml.safe_load(path.read_text()).items() if section is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    return path


def loaded(path: Path, *overrides: str) -> PpoRecipe:
    """The recipe as `ftune ppo` reads it."""
    found = load_recipe("ppo", path, overrides).recipe
    assert isinstance(found, PpoRecipe)
    return found
