"""What `auto` becomes in the section `batch`, and what is kept of activations that are computed again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.plan.work import token_flops
from ftune.recipes.runs.plan import Target, plan_of
from ftune.recipes.runs.plan_changes import rungs
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_text import as_dict, headline
from tests.recipes.test_plan import SHAPE, plan, recipe_of

AUTO = ("batch={micro_batch_size: auto, global_batch_size: 96}", "peft=lora")


@settings(max_examples=25)
@given(st.floats(18.0, 400.0), st.integers(1, 3))
def test_the_micro_batch_is_the_largest_power_of_two_that_fits(gib: float, gpus: int) -> None:
    found = plan("sft", *AUTO, gib=gib, gpus=gpus)
    number = found.job.micro_batch_size
    assert found.chosen
    assert number & (number - 1) == 0
    assert number * found.job.accumulation * gpus == 96
    larger = f"batch.micro_batch_size={2 * number}"
    assert number == 32 // (1 if gpus != 2 else 2) or not plan("sft", *AUTO, larger, gib=gib, gpus=gpus).fits
    assert found.fits or number == 1


@pytest.mark.parametrize(("longest", "number"), [(100, 32), (1000, 8), (5000, 1), (9000, 1)])
def test_on_a_cpu_it_follows_from_the_tokens(longest: int, number: int) -> None:
    rows = Rows(longest, "the test", 10, 10 * longest)
    found = plan_of(recipe_of("sft", *AUTO), Target(on_gpu=False, shape=SHAPE), rows)
    assert found.job.micro_batch_size == number


FEW_LONG = Rows(5000, "the test", 96, 5000 + 95 * 100, lengths=((5000, 1), (100, 95)))
"""Of which no micro-batch has more than one that is long."""


def test_without_padding_a_long_row_makes_no_others_long() -> None:
    here = Target(on_gpu=False, shape=SHAPE)
    flat = plan_of(recipe_of("sft", *AUTO), here, FEW_LONG)
    assert (flat.job.micro_batch_size, flat.job.batch_tokens) == (32, 5000 + 31 * 100)
    padded = plan_of(recipe_of("sft", *AUTO, "speed.packed_attention=off"), here, FEW_LONG)
    assert padded.job.micro_batch_size == 1
    numbers = [
        plan("sft", *AUTO, f"speed.packed_attention={speed}", rows=FEW_LONG, gib=140.0).job.micro_batch_size
        for speed in ("auto", "off")
    ]
    assert numbers == [32, 2]


def test_what_is_packed_flat_is_full_whatever_its_rows_are() -> None:
    job = plan("sft", "data.packing=true", rows=FEW_LONG).job
    assert (job.batch_tokens, job.own_tokens) == (8 * 2048, 151)


BOTH = (*AUTO, "batch.activation_checkpointing=auto")


@settings(max_examples=25)
@given(st.floats(10.0, 400.0), st.sampled_from([AUTO[:1], ("batch={micro_batch_size: 8, global_batch_size: 96}",)]))
def test_as_little_is_computed_again_as_fits(gib: float, batch: tuple[str, ...]) -> None:
    given = (*batch, "peft=lora", "batch.activation_checkpointing=auto")
    found = plan("sft", *given, gib=gib)
    rows = 1 if batch == AUTO[:1] else 8

    def fits(state: str) -> bool:
        key = f"batch.activation_checkpointing={state}"
        return plan("sft", *given, f"batch.micro_batch_size={rows}", key, gib=gib).fits

    first = next((state for state in ("false", "selective") if fits(state)), "true")
    assert found.job.checkpointing == {"false": False, "selective": "selective", "true": True}[first]
    same = [f"batch.micro_batch_size={found.job.micro_batch_size}", f"batch.activation_checkpointing={first}"]
    assert plan("sft", *given, *same, gib=gib).estimate == found.estimate
    assert str(found.chosen[-1]).startswith(f"batch.activation_checkpointing: auto is {first} (")


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_a_part_that_is_kept_lies_between_all_and_nothing(peft: str) -> None:
    states = [plan("sft", f"peft={peft}", f"batch.activation_checkpointing={state}") for state in STATES]
    off, selective, full = (found.estimate.peak for found in states)
    assert full < selective < off
    off, selective, full = (token_flops(found.job) for found in states)
    assert off < selective < full


def test_a_plan_names_what_is_kept() -> None:
    found = plan("sft", "batch.activation_checkpointing=selective", "speed.folded_lora=off", "peft=full")
    assert "bytes a token: self_attn.q_proj 8,192, self_attn.k_proj 2,048," in " ".join(
        " ".join(headline(found)).split()
    )
    assert as_dict(found)["kept_of_a_token_and_layer"]["attention"] == 2 * 4096 + 4 * 32
    assert as_dict(plan("sft"))["kept_of_a_token_and_layer"] == {}


STATES = ("false", "selective", "true")


@pytest.mark.parametrize(
    "override",
    [
        "model.attention=eager",
        "model.quantization=int8",
        "backend=zero",
        "backend=fsdp",
        "peft={type: lora, dora: true}",
    ],
)
def test_a_part_is_kept_only_where_that_is_sure(override: str) -> None:
    for gib in (12.0, 16.0, 20.0, 30.0, 45.0, 60.0):
        assert plan("sft", *BOTH, override, gib=gib, gpus=2).job.checkpointing in (False, True)


def test_fitting_tries_a_part_first() -> None:
    def offered(state: str) -> list[Any]:
        before = plan("sft", f"batch.activation_checkpointing={state}")
        changes = [change for levels in rungs(before.recipe, before.job) for change in levels]
        found = [change.values for change in changes if "batch.activation_checkpointing" in change.values]
        return [tuple(values.values()) for values in found]

    away = (True, True)  # and offloaded
    assert [offered(state) for state in STATES] == [[("selective",), (True,), away], [(True,), away], [away]]


def test_what_fits_without_checkpointing_is_as_if_it_had_not_been_named() -> None:
    for command in ("sft", "rm"):
        named = plan(command, "peft=lora", "batch.activation_checkpointing=auto", gib=300.0)
        unnamed = plan(command, "peft=lora", gib=300.0)
        assert named.estimate == unnamed.estimate
        assert named.recipe == unnamed.recipe


def test_a_cpu_never_computes_activations_again() -> None:
    found = plan_of(recipe_of("sft", *BOTH), Target(on_gpu=False, shape=SHAPE), Rows(10**6, "the test"))
    assert not found.job.checkpointing
    assert str(found.chosen[1]) == "batch.activation_checkpointing: auto is false (never on a CPU)"


def test_a_method_that_cannot_go_with_checkpointing_stays_without() -> None:
    found = plan("sft", *BOTH, "peft=prefix", gib=10.0)
    assert (found.fits, found.job.checkpointing, found.job.micro_batch_size) == (False, False, 1)
    assert "is too much, but transformers 5 drops the cache" in str(found.chosen[1])


@pytest.mark.parametrize(
    ("key", "needed"), [("micro_batch_size", "a number"), ("activation_checkpointing", "true, selective or false")]
)
def test_a_file_for_a_launcher_needs_what_is_chosen(
    recipe: Callable[..., Path], ftune: Callable[..., Any], key: str, needed: str
) -> None:
    path = recipe(batch={"global_batch_size": 8, key: "auto"})
    done = ftune("launch", "accelerate", path, "--output", "made")
    assert done.code == 2
    assert f"batch.{key}: 'auto' is chosen where the run computes; a file needs {needed}" in done.err
    assert not Path("made").exists()
