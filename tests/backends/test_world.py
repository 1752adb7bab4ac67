"""What `auto` becomes, and what is said where a launcher and a recipe disagree."""

import json
from pathlib import Path
from typing import Any

import pytest

from ftune.backends.asked import forget
from ftune.backends.auto import Auto
from ftune.backends.base import Backend
from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.shape import Shape
from ftune.backends.single import Single
from ftune.backends.zero import Offload, Zero
from ftune.core.errors import LaunchError
from ftune.core.world import World

SHAPE = Shape(2, 1, 2, 4, 0.5, "bf16", on_gpu=True)
PLAIN = {"ACCELERATE_MIXED_PRECISION": "bf16"}
DEEPSPEED = PLAIN | {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
FSDP = PLAIN | {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
}


def world(count: int = 2, nodes: int = 1, launcher: str = "accelerate") -> World:
    return World(0, count, 0, count // nodes, nodes, 0, launcher)


ALONE: list[tuple[dict[str, Any], int, Backend]] = [
    ({}, 0, Single()),
    ({}, 1, Single()),
    ({}, 8, Ddp(num_processes="auto", num_nodes=1)),
    ({"device": "cpu"}, 8, Single(device="cpu")),
    ({"num_processes": 2}, 0, Ddp(num_processes=2, num_nodes=1)),
    ({"num_nodes": 2}, 1, Ddp(num_processes="auto", num_nodes=2)),
]


@pytest.mark.parametrize(("given", "gpus", "wanted"), ALONE)
def test_auto_alone(given: dict[str, Any], gpus: int, wanted: Backend) -> None:
    assert Auto(**given).resolve(None, {}, gpus).model_dump() == wanted.model_dump()


JOINED: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {"type": "ddp"}),
    (PLAIN, {"type": "ddp"}),
    (DEEPSPEED, {"type": "zero", "stage": 2}),
    (
        DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
        {"type": "zero", "stage": 3, "offload": {"optimizer": "none", "parameters": "cpu", "nvme_path": None}},
    ),
    (FSDP, {"type": "fsdp", "sharding": "full", "reshard_after_forward": True, "offload": "none"}),
    (FSDP | {"FSDP_RESHARD_AFTER_FORWARD": "false"}, {"type": "fsdp", "reshard_after_forward": False}),
    (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, {"type": "fsdp", "offload": "cpu"}),
    (
        FSDP | {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"},
        {"type": "fsdp", "sharding": "hybrid", "num_nodes": 2},
    ),
    (FSDP | {"FSDP_VERSION": "1"}, {"type": "fsdp", "sharding": "full", "reshard_after_forward": True}),
    (
        FSDP | {"FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "2"},
        {"type": "fsdp", "sharding": "full", "reshard_after_forward": False},
    ),
    (
        FSDP | {"FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"},
        {"type": "fsdp", "sharding": "hybrid", "reshard_after_forward": True},
    ),
]


@pytest.mark.parametrize(("environment", "wanted"), JOINED)
def test_auto_does_what_the_launcher_asks_for(environment: dict[str, str], wanted: dict[str, Any]) -> None:
    found = Auto().resolve(world(4, 2), environment, gpus=2).model_dump()
    assert found | wanted == found
    assert (found["num_processes"], found["num_nodes"]) == (2, 2)


def test_accelerate_for_one_process_on_the_cpu() -> None:
    assert Auto().resolve(None, {"ACCELERATE_USE_CPU": "True"}, gpus=8) == Single(device="cpu")


CANNOT: list[tuple[Backend, World, dict[str, str], str]] = [
    (Single(), world(), {}, "accelerate started 2 processes, and 'backend: single' is for one"),
    (Auto(), world(4), {}, "4 processes on a node, where each sees 2 GPUs"),
    (Auto(), world(), {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
    (
        Auto(),
        world(),
        FSDP | {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"},
        "tensor parallelism over 2 processes",
    ),
    (
        Auto(),
        world(),
        DEEPSPEED | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
        "offload.parameters: stage 2 keeps weights whole",
    ),
    (Auto(), world(), DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "/no/where.json"}, "/no/where.json"),
]


@pytest.mark.parametrize(("backend", "there", "environment", "message"), CANNOT)
def test_what_cannot_be(backend: Backend, there: World, environment: dict[str, str], message: str) -> None:
    with pytest.raises(LaunchError, match="(?s)" + ".*".join(message.split())):
        backend.resolve(there, environment, gpus=2)


SAID: list[tuple[Backend, dict[str, str], list[str]]] = [
    (Ddp(), PLAIN, []),
    (Ddp(), {}, []),
    (Ddp(), {"ACCELERATE_MIXED_PRECISION": "fp16"}, ["mixed_precision is fp16", "model.dtype makes it bf16"]),
    (Ddp(num_processes=4), {}, ["started 2 processes on each node", "backend.num_processes is 4"]),
    (Ddp(num_nodes=2), {}, ["started 1 nodes", "backend.num_nodes is 2"]),
    (Ddp(), DEEPSPEED, ["asks for DeepSpeed", "'backend: ddp'"]),
    (Zero(), FSDP, ["asks for FSDP", "'backend: zero'"]),
    (Zero(), DEEPSPEED, []),
    (Zero(stage=3), DEEPSPEED, ["DeepSpeed stage is 2", "backend.stage makes it 3"]),
    (Zero(offload=Offload(optimizer="cpu")), DEEPSPEED, ["offload.optimizer is none", "makes it cpu"]),
    (
        Zero(),
        DEEPSPEED | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8"},
        ["gradient_accumulation_steps is 8", "batch.gradient_accumulation_steps makes it 4"],
    ),
    (
        Zero(),
        DEEPSPEED | {"ACCELERATE_GRADIENT_CLIPPING": "1.0"},
        ["gradient_clipping is 1.0", "optim.max_grad_norm makes it 0.5"],
    ),
    (Fsdp(), FSDP, []),
    (Fsdp(offload="cpu"), FSDP, ["fsdp_offload is none", "backend.offload makes it cpu"]),
    (Fsdp(), FSDP | {"FSDP_VERSION": "1"}, ["fsdp_version is 1", "FSDP2"]),
    (
        Fsdp(),
        FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
        ["fsdp_activation_checkpointing is True", "batch.activation_checkpointing makes it False"],
    ),
]


@pytest.mark.parametrize(("backend", "environment", "words"), SAID)
def test_what_is_said_of_a_contradiction(backend: Backend, environment: dict[str, str], words: list[str]) -> None:
    said = backend.contradictions(world(), environment, SHAPE)
    assert len(said) == bool(words)
    for word in words:
        assert word in said[0]


def test_numbers_in_deepspeeds_own_file(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(
        json.dumps(
            {
                "train_batch_size": "auto",
                "gradient_clipping": 1.0,
                "bf16": {"enabled": True},
                "wall_clock_breakdown": True,
                "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": False},
            }
        )
    )
    environment = DEEPSPEED | {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    backend = Auto().resolve(world(), environment, gpus=2)
    assert isinstance(backend, Zero)
    assert (backend.bucket_size, backend.overlap_communication) == (1000, False)
    clipping, unknown = backend.contradictions(world(), environment, SHAPE)
    assert "gradient_clipping is 1.0, the recipe makes it 0.5" in clipping
    assert "no key for wall_clock_breakdown" in unknown


def test_no_wish_is_left_after_it_was_heard() -> None:
    environment = {**DEEPSPEED, **FSDP, "RANK": "0", "CUDA_VISIBLE_DEVICES": "0"}
    forget(environment)
    assert environment == {"RANK": "0", "CUDA_VISIBLE_DEVICES": "0"}
