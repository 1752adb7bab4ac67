"""What a plan takes a recipe's `speed:` to be, beside what a run finds out about the model itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ftune.plan.adapter import Adapter
from ftune.plan.families import FAMILIES, shape_of_config
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.plan_command import ELSEWHERE
from ftune.recipes.runs.plan_speed import speed_of
from ftune.trainers.speed import choose_speed
from tests.plan.test_families import CONFIGS

ROWS = [[5, 6, 7, 8, 9], [10, 11, 12]]


def recipe_of(command: str = "sft", *overrides: str) -> Any:
    text = json.dumps({"type": command, "model": {"path": "org/model"}, "data": {"train": "rows.jsonl"}})
    return load_recipe(command, Path("r.yaml"), overrides, text=text, elsewhere=ELSEWHERE).recipe


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_knows_what_a_run_will_find(family: str) -> None:
    given = dict(next(config for config in CONFIGS if config["model_type"] == family))
    shape = shape_of_config(given)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[given.pop("model_type")](**given)).eval()
    speed = choose_speed(model, ROWS, torch.float32)
    expected = {"flat": bool(speed.attention), "loss": "fused" if speed.fused_loss else "tiled"}
    assert speed_of(recipe_of(), shape, Adapter(), on_gpu=False) == expected, speed.reasons


@pytest.mark.parametrize(
    ("command", "overrides", "adapter", "expected"),
    [
        ("sft", [], Adapter(), {"flat": True, "loss": "fused"}),
        ("rm", [], Adapter(), {"flat": False, "loss": "tiled"}),
        ("sft", ["model.attention=eager"], Adapter(), {"flat": False, "loss": "fused"}),
        ("sft", ["model.attention=flex_attention"], Adapter(), {"flat": True, "loss": "fused"}),
        ("sft", ["speed.packed_attention=off", "speed.fused_loss=off"], Adapter(), {"flat": False, "loss": "tiled"}),
        ("sft", [], Adapter(virtual_tokens=3), {"flat": False, "loss": "tiled"}),
        ("sft", [], Adapter(prefix_tokens=3), {"flat": False, "loss": "tiled"}),
    ],
)
def test_what_switches_it_off(command: str, overrides: list[str], adapter: Adapter, expected: dict[str, Any]) -> None:
    shape = shape_of_config(CONFIGS[0])
    assert speed_of(recipe_of(command, *overrides), shape, adapter, on_gpu=True) == expected


def test_scores_with_a_cap_have_an_attention_for_flat_batches_on_gpus() -> None:
    shape = shape_of_config(next(config for config in CONFIGS if config["model_type"] == "gemma2"))
    assert not speed_of(recipe_of(), shape, Adapter(), on_gpu=False)["flat"]
    assert speed_of(recipe_of(), shape, Adapter(), on_gpu=True)["flat"]
