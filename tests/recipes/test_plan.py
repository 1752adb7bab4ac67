"""A recipe as a job, the ladder of changes that make it fit, and the micro-batch that is chosen."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import RecipeError
from ftune.plan.families import shape_of_config
from ftune.plan.gpus import Gpu
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.plan import Plan, Target, plan_of
from ftune.recipes.runs.plan_changes import rungs
from ftune.recipes.runs.plan_command import ELSEWHERE
from ftune.recipes.runs.plan_fit import fit, mildest_changes
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_world import Asked
from tests.cli.test_plan import LLAMA_8B

GIB = 2**30
SHAPE = shape_of_config(LLAMA_8B)
ROWS = Rows(1000, "the test", 640, 64_000)
BASE: dict[str, Any] = {
    "sft": {
        "model": {"path": "org/model"},
        "data": {"train": "rows.jsonl", "max_length": 2048},
        "batch": {"micro_batch_size": 8, "global_batch_size": 32},
        "peft": {"type": "full"},
    },
    "rm": {
        "model": {"path": "org/model"},
        "data": {"train": "rows.jsonl", "max_length": 2048},
        "batch": {"micro_batch_size": 8, "gradient_accumulation_steps": 2},
        "peft": {"type": "lora"},
    },
    "ppo": {
        "model": {"path": "org/model"},
        "data": {"train": "rows.jsonl", "max_length": 512},
        "rewards": [{"type": "length", "max": 9}],
        "rollout": {"batch_size": 128, "max_new_tokens": 256},
        "ppo": {"minibatch_size": 32, "micro_batch_size": 8},
    },
}


def recipe_of(command: str, *overrides: str) -> Any:
    """A recipe whose files are nowhere."""
    text = json.dumps({"type": command, **BASE[command]})
    return load_recipe(command, Path("r.yaml"), overrides, text=text, elsewhere=ELSEWHERE).recipe


def plan(command: str, *overrides: str, gib: float = 80.0, gpus: int = 1, rows: Rows = ROWS) -> Plan:
    """Its plan on GPUs of one node."""
    target = Target(gpu=Gpu("a GPU", int(gib * GIB), 1e15, 3e12), world=Asked(gpus=gpus), shape=SHAPE)
    return plan_of(recipe_of(command, *overrides), target, rows)


@pytest.mark.parametrize(
    ("command", "override", "field", "value"),
    [
        ("sft", "batch.micro_batch_size=4", "micro_batch_size", 4),
        ("sft", "batch.micro_batch_size=4", "accumulation", 8),
        ("sft", "batch.activation_checkpointing=true", "checkpointing", True),
        ("sft", "batch.activation_checkpointing=selective", "checkpointing", "selective"),
        ("rm", "batch.activation_checkpointing=selective", "checkpointing", "selective"),
        ("sft", "batch={activation_checkpointing: true, activation_offload: true}", "offload", True),
        ("sft", "optim.optimizer=adamw_8bit", "optimizer", "adamw_8bit"),
        ("sft", "model.dtype=fp16", "dtype", "fp16"),
        ("sft", "model.attention=eager", "attention", "eager"),
        ("sft", "data.packing=true", "tokens", 2048),
        ("sft", "data.packing=true", "packed", True),
        ("sft", "trainer_args.label_smoothing_factor=0.1", "loss", "whole"),
        ("sft", "trainer_args.loss_type=dft", "loss", "tiled"),
        ("sft", "speed.fused_loss=off", "loss", "tiled"),
        ("sft", "speed.packed_attention=off", "flat", False),
        ("sft", "model.attention=sdpa", "flat", False),
        ("sft", "peft=prefix", "flat", False),
        ("sft", "data.packing=true", "own_tokens", 100),
        ("rm", "batch.micro_batch_size=3", "micro_batch_size", 6),
        ("rm", "head={type: classifier, positive_class: a, labels: [a, b]}", "micro_batch_size", 8),
        ("rm", "model.quantization=nf4", "quantization", "nf4"),
        ("rm", "model.quantization={type: nf4, double_quant: false}", "double_quant", False),
        ("ppo", "ppo.micro_batch_size=4", "micro_batch_size", 4),
        ("ppo", "ppo.micro_batch_size=4", "accumulation", 8),
        ("ppo", "ppo.activation_checkpointing=true", "checkpointing", True),
        ("ppo", "rollout.max_new_tokens=100", "tokens", 612),
    ],
)
def test_keys_reach_the_job(command: str, override: str, field: str, value: object) -> None:
    before, after = plan(command).job, plan(command, override).job
    assert getattr(after, field) == value != getattr(before, field)


def test_a_model_that_is_quantised_already_is_planned_as_it_lies_in_its_files() -> None:
    def planned(stored_as: str, override: str = "model.quantization=none") -> Plan:
        target = Target(gpu=Gpu("a GPU", 80 * GIB, 1e15, 3e12), shape=replace(SHAPE, stored_as=stored_as))
        return plan_of(recipe_of("sft", "peft=lora", override), target, ROWS)

    stored = planned("nf4")
    assert stored.estimate == planned("none", "model.quantization={type: nf4, double_quant: false}").estimate
    assert planned("int8").job.quantization == "int8"
    assert not any(change.name == "QLoRA" for rung in rungs(stored.recipe, stored.job) for change in rung)
    assert "hold its weights as gptq; they are counted as bf16" in planned("gptq").notes[0]


def test_offloaded_inputs_of_layers_are_in_the_other_memory() -> None:
    here, away = (
        plan("sft", "peft=lora", f"batch={{activation_checkpointing: true, activation_offload: {state}}}")
        for state in ("false", "true")
    )
    inputs = here.job.batch_tokens * 2 * SHAPE.hidden
    assert away.estimate.host["activations"] == SHAPE.layers * inputs
    assert "activations" not in here.estimate.host
    phases = [{phase.name: phase.bytes for phase in one.estimate.phases} for one in (here, away)]
    assert phases[0]["head"] - phases[1]["head"] == (SHAPE.layers - 2) * inputs
    assert phases[0]["embeddings"] == phases[1]["embeddings"]
    offered = [[change.name for rung in rungs(one.recipe, one.job) for change in rung] for one in (here, away)]
    assert ["activation offload" in names for names in offered] == [True, False]


def test_weights_of_a_whole_model_are_bf16_with_its_optimizer() -> None:
    wide, ours = (plan("sft", "peft=full", f"optim.optimizer={name}") for name in ("adamw", "adamw_bf16"))
    assert (wide.job.trained_width, ours.job.trained_width) == (4, 2)
    assert ours.estimate.parts["trained weights"] * 2 == wide.estimate.parts["trained weights"]


def test_products_in_another_dtype_have_no_plan_with_bf16_weights() -> None:
    target = Target(gpu=None, on_gpu=False, world=Asked(gpus=1), shape=SHAPE)
    with pytest.raises(RecipeError, match=r"'model\.dtype: auto' is fp32 here; set 'model\.dtype: bf16'"):
        plan_of(recipe_of("sft", "peft=full", "optim.optimizer=adamw_bf16"), target, ROWS)


def test_whole_models_are_offered_bf16_weights_where_products_are_bf16() -> None:
    def offered(command: str, *overrides: str) -> list[str]:
        before = plan(command, *overrides)
        changes = [change for levels in rungs(before.recipe, before.job) for change in levels]
        return [change.name for change in changes if change.on(before.recipe) is not None]

    assert "bf16 optimizer" in offered("sft", "peft=full")
    assert "bf16 optimizer" not in offered("sft", "peft=lora")
    assert "bf16 optimizer" not in offered("sft", "peft=full", "model.dtype=fp16")
    assert "bf16 optimizer" not in offered("sft", "peft=full", "backend=zero")
    assert "bf16 optimizer" not in offered("ppo", "peft=full")


def test_a_pair_is_two_rows_and_its_head_one_number() -> None:
    job = plan("rm").job
    assert job.kind == "rm"
    assert job.shape.head.outputs == 1
    assert plan("rm", "head={type: classifier, positive_class: a, labels: [a, b, c]}").job.shape.head.outputs == 3


def test_a_method_says_what_trains_and_what_it_makes_anew() -> None:
    job = plan("sft", "peft=lora").job
    assert (job.trained, job.dense) == (41_943_040, 0)
    assert plan("sft", "peft=full").job.full
    assert plan("sft", "peft=boft").job.dense > 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("backend={type: zero, stage: 3, offload: {optimizer: cpu}}", ("zero", 3, "cpu", "none")),
        ("backend={type: fsdp, offload: cpu}", ("fsdp", 2, "none", "cpu")),
        ("backend=ddp", ("ddp", 2, "none", "none")),
        ("backend=auto", ("ddp", 2, "none", "none")),
    ],
)
def test_backends(override: str, expected: tuple[object, ...]) -> None:
    spread = plan("sft", override, gpus=4).job.spread
    assert (spread.type, spread.stage, spread.optimizer, spread.parameters) == expected
    assert (spread.processes, spread.nodes, spread.world) == (4, 1, 4)


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        ([], "reference", "base"),
        (["peft=full"], "reference", "copy"),
        (["peft=full", "value.type=copy"], "value", "copy"),
        (["value.type=adapter"], "value", "adapter"),
        ([], "engine", "graph"),
        (["rollout.type=generate"], "engine", "generate"),
        (["rollout.type=generate"], "at_once", 32),
        (["rollout={type: generate, micro_batch_size: 4}"], "at_once", 4),
        (["rollout={type: graph, weights: shared}"], "merged", False),
        (["rollout={type: vllm, mode: colocate, gpu_memory_utilization: 0.4}"], "gpu_share", 0.4),
        ([], "completions", 128),
    ],
)
def test_roles(overrides: list[str], field: str, value: object) -> None:
    roles = plan("ppo", *overrides).job.roles
    assert roles is not None
    assert getattr(roles, field) == value


def test_a_reward_model_is_an_adapter_on_the_base_or_a_model_of_its_own(tmp_path: Path) -> None:
    absent = plan("ppo", f"rewards=[{{type: model, path: {tmp_path}/none}}]")
    assert absent.job.roles is not None
    assert absent.job.roles.reward_adapters == absent.job.adapter.parameters
    assert "is not here" in absent.notes[0]
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": 2}))
    whole = plan("ppo", f"rewards=[{{type: model, path: {tmp_path}}}]").job.roles
    assert whole is not None
    assert [shape.layers for shape in whole.reward_models] == [2]
    header = json.dumps({"a": {"shape": [3, 5]}, "b": {"shape": [7]}, "__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "judge" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gone/away/x"}))
    adapter = plan("ppo", f"rewards=[{{type: model, path: {tmp_path}/judge}}]").job.roles
    assert adapter is not None
    assert (adapter.reward_adapters, adapter.reward_models) == (22, ())


# -- the ladder --------------------------------------------------------------------------------------------------------

LADDERS = [
    pytest.param(command, gpus, backend, id=f"{command}-{gpus}-{backend}")
    for command, gpus, backend in [
        ("sft", 1, "auto"),
        ("sft", 4, "auto"),
        ("sft", 4, "zero"),
        ("rm", 1, "auto"),
        ("ppo", 1, "auto"),
        ("ppo", 4, "auto"),
    ]
]


@pytest.mark.parametrize(("command", "gpus", "backend"), LADDERS)
def test_each_change_is_what_its_overrides_say(command: str, gpus: int, backend: str) -> None:
    """A pasted override gives the very recipe that was planned."""
    given = [f"backend={backend}"] if backend != "auto" else []
    before = plan(command, *given, gpus=gpus)
    changes = [change for levels in rungs(before.recipe, before.job) for change in levels]
    assert len(changes) > 4
    for change in changes:
        changed = change.on(before.recipe)
        if changed is not None:
            pasted = recipe_of(command, *given, *change.overrides)
            assert changed.resolved() == pasted.resolved(), change.name


@pytest.mark.parametrize(("command", "gpus", "backend"), LADDERS)
def test_a_step_keeps_its_rows(command: str, gpus: int, backend: str) -> None:
    before = plan(command, gpus=gpus)
    step = before.job.micro_batch_size * before.job.accumulation
    for change in rungs(before.recipe, before.job)[0]:
        changed = change.on(before.recipe)
        assert changed is not None
        job = plan_of(changed, before.target, before.rows).job
        assert job.micro_batch_size * job.accumulation == step
        assert job.micro_batch_size < before.job.micro_batch_size


@settings(max_examples=25)
@given(st.sampled_from([("sft", 1), ("sft", 4), ("rm", 1), ("ppo", 1), ("ppo", 4)]), st.floats(3.0, 400.0))
def test_what_is_found_fits_and_nothing_in_it_is_idle(case: tuple[str, int], gib: float) -> None:
    before = plan(case[0], gib=gib, gpus=case[1])
    found = fit(before, partial(plan_of, target=before.target, rows=before.rows))
    assert found.plan.estimate.total <= before.estimate.total
    assert before.fits == (found.steps == ())
    for step in found.steps:
        without = plan_with(before, [change for change in found.changes if change is not step.change])
        assert without.estimate.total - found.plan.estimate.total == step.gain
        assert not (found.plan.fits and without.fits), step.change.name


def plan_with(before: Plan, changes: list[Any]) -> Plan:
    """The plan with some of the changes."""
    recipe = before.recipe
    for change in changes:
        recipe = change.on(recipe) or recipe
    return plan_of(recipe, before.target, before.rows)


def test_more_is_given_up_on_smaller_cards() -> None:
    names = []
    for gib in (300.0, 75.0, 40.0, 24.0):
        before = plan("sft", gib=gib)
        found = fit(before, partial(plan_of, target=before.target, rows=before.rows))
        assert found.plan.fits
        names.append({step.change.name for step in found.steps})
    assert names[0] == set()
    assert "LoRA" in names[2]
    assert "LoRA" in names[3]
    assert len(names[3]) >= len(names[2]) >= 1


def test_the_mildest_changes_each_help_by_themselves() -> None:
    before = plan("sft")
    steps = mildest_changes(before, partial(plan_of, target=before.target, rows=before.rows))
    assert [step.change.name for step in steps][:2] == ["micro-batch of 4", "selective checkpointing"]
    for step in steps:
        changed = step.change.on(before.recipe)
        assert changed is not None
        after = plan_of(changed, before.target, before.rows)
        assert before.estimate.total - after.estimate.total == step.gain > 0


# -- batch: auto -------------------------------------------------------------------------------------------------------
