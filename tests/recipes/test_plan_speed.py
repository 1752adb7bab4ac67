"""What a plan takes a recipe's `speed:` to be, beside what a run finds out about the model itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ftune.plan.adapter import Adapter
from ftune.plan.families import FAMILIES, shape_of_config
from ftune.plan.job import Job, Spread
from ftune.plan.weights import copies
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.plan_command import ELSEWHERE
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_speed import compiled, most_tokens, speed_of
from ftune.recipes.runs.plan_time import Time
from ftune.trainers.speed import at_speed
from tests.plan.test_families import CONFIGS

ROWS = [[5, 6, 7, 8, 9], [10, 11, 12]]


def recipe_of(command: str = "sft", *overrides: str) -> Any:
    text = json.dumps({"type": command, "model": {"path": "org/model"}, "data": {"train": "rows.jsonl"}})
    return load_recipe(command, Path("r.yaml"), overrides, text=text, elsewhere=ELSEWHERE).recipe


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_knows_what_a_run_will_find(family: str) -> None:
    given = dict(next(config for config in CONFIGS if config["model_type"] == family))
    given |= {"dropout": 0.0} if family == "opt" else {}
    shape = shape_of_config(given)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIG_MAPPING[given.pop("model_type")](**given))
    names = [linear.name.rpartition(".")[2] for linear in shape.layer_linears]
    model: Any = get_peft_model(base, LoraConfig(target_modules=names, task_type="CAUSAL_LM"))
    with at_speed(model, ROWS, torch.float32) as speed:
        found = {
            "flat": bool(speed.attention),
            "loss": "fused" if speed.fused_loss else "tiled",
            "folded": speed.folded_lora > 0,
        }
    assert speed_of(recipe_of(), shape, Adapter(), Spread(), on_gpu=False) == found, speed.reasons


FAST = {"flat": True, "loss": "fused", "folded": True}
PADDED = {"flat": False, "loss": "fused", "folded": False}
SLOW = {"flat": False, "loss": "tiled", "folded": False}


@pytest.mark.parametrize(
    ("command", "overrides", "adapter", "expected"),
    [
        ("sft", [], {}, FAST),
        ("rm", [], {}, FAST),
        ("rm", ["head={type: classifier, positive_class: a, labels: [a, b]}"], {}, FAST),
        ("rm", ["speed.packed_attention=off"], {}, PADDED),
        ("rm", ["speed.folded_lora=off"], {}, FAST | {"folded": False}),
        ("rm", [], {"virtual_tokens": 3}, SLOW),
        ("sft", ["model.attention=eager"], {}, PADDED),
        ("sft", ["model.attention=flex_attention"], {}, FAST),
        ("sft", ["speed.packed_attention=off", "speed.fused_loss=off"], {}, SLOW),
        ("sft", [], {"virtual_tokens": 3}, SLOW),
        ("sft", [], {"prefix_tokens": 3}, SLOW),
        ("sft", ["speed.fused_loss=off"], {}, {"flat": True, "loss": "tiled", "folded": False}),
        ("sft", ["speed.folded_lora=off"], {}, FAST | {"folded": False}),
        ("sft", ["peft=full"], {}, FAST | {"folded": False}),
        ("sft", ["peft={type: lora, dora: true}"], {}, FAST | {"folded": False}),
        ("sft", ["model.quantization=nf4"], {}, FAST),
        ("sft", ["model.quantization=int8"], {}, FAST | {"folded": False}),
    ],
)
def test_what_switches_it_off(
    command: str, overrides: list[str], adapter: dict[str, int], expected: dict[str, Any]
) -> None:
    shape, recipe = shape_of_config(CONFIGS[0]), recipe_of(command, *overrides)
    assert speed_of(recipe, shape, Adapter(**adapter), Spread(), on_gpu=True) == expected
    in_parts = speed_of(recipe, shape, Adapter(**adapter), Spread(type="zero", processes=2), on_gpu=True)
    assert in_parts == expected | {"folded": False}


def test_scores_with_a_cap_have_an_attention_for_flat_batches_on_gpus() -> None:
    shape = shape_of_config(next(config for config in CONFIGS if config["model_type"] == "gemma2"))
    assert not speed_of(recipe_of(), shape, Adapter(), Spread(), on_gpu=False)["flat"]
    assert speed_of(recipe_of(), shape, Adapter(), Spread(), on_gpu=True)["flat"]


def test_a_gpu_gets_the_rows_of_a_step_together() -> None:
    recipe = recipe_of("sft", "batch={micro_batch_size: 2, gradient_accumulation_steps: 4}")
    rows = Rows(100, "the test", 9, 340, lengths=((100, 1), (30, 8)))

    def tokens(spread: Spread = Spread(), *, whole: bool = True, on_gpu: bool = True) -> int:  # noqa: B008 - frozen
        return most_tokens(recipe, rows, spread, whole=whole, on_gpu=on_gpu)

    assert tokens() == 200, "so much as two rows of 100; all eight have 310 at most"
    assert tokens(on_gpu=False) == tokens(whole=False) == tokens(Spread(type="zero", processes=2)) == 130
    assert most_tokens(recipe, Rows(100, "the test"), Spread(), whole=True, on_gpu=True) == 200
    assert most_tokens(recipe, rows, Spread(), whole=True, on_gpu=True, answers=2) == 340, (
        "all nine answers that there are"
    )


@pytest.mark.parametrize(
    ("hours", "asked", "on_gpu", "expected"),
    [
        (1.0, "auto", True, True),
        (0.001, "auto", True, False),
        (0.001, "on", True, True),
        (1.0, "off", True, False),
        (None, "auto", True, True),
        (1.0, "on", False, False),
    ],
)
def test_layers_are_compiled_for_runs_that_last(hours: float | None, asked: str, on_gpu: bool, expected: bool) -> None:
    job = Job(shape=shape_of_config(CONFIGS[0]), flat=True, loss="fused", on_gpu=on_gpu)
    time = None if hours is None else Time(10, 0.0, hours, 0.3, "the test", 1)
    recipe = recipe_of("sft", f"speed.compiled_layers={asked}")
    assert compiled(recipe, job, time).compiled == expected
    assert not compiled(recipe, replace(job, spread=Spread(type="fsdp", processes=2)), time).compiled
    assert not compiled(recipe, replace(job, loss="tiled"), time).compiled
    scores = recipe_of("rm", f"speed.compiled_layers={asked}")
    assert compiled(scores, replace(job, kind="rm"), time).compiled == expected
    assert not compiled(scores, replace(job, kind="rm", flat=False), time).compiled


def test_fp8_is_planned_in_layers_that_are_compiled_for_it() -> None:
    whole = Adapter(base=shape_of_config(CONFIGS[0]).parameters)
    job = Job(shape=shape_of_config(CONFIGS[0]), adapter=whole, flat=True, loss="fused")
    short = Time(10, 0.0, 0.001, 0.3, "the test", 1)
    plain = compiled(recipe_of("sft", "peft=full"), job, None)
    found = compiled(recipe_of("sft", "peft=full", "speed.fp8=rowwise"), job, short)
    assert (found.compiled, found.fp8, plain.fp8) == (True, True, False)
    assert copies(found) == 0 < copies(plain)
    assert not compiled(recipe_of("sft", "peft=full", "speed.fp8=rowwise"), replace(job, on_gpu=False), None).fp8
