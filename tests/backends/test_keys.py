"""Every key of a backend changes what is generated from it."""

from collections.abc import Callable

import pytest

from ftune.backends.auto import Auto
from ftune.backends.base import Backend
from ftune.backends.shape import Shape
from ftune.core.section import Section
from ftune.core.variants import variants_of
from tests.backends.cases import shape_of

SHAPE = shape_of("ddp-4x8")
NVME = {"optimizer": "nvme", "nvme_path": "/fast"}

Look = Callable[[Backend], object]


def accelerate(*keys: str) -> Look:
    """A value of accelerate's configuration."""

    def look(backend: Backend) -> object:
        value: object = backend.accelerate_config(SHAPE)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return look


def zero(*keys: str) -> Look:
    """A value of DeepSpeed's configuration of ZeRO."""

    def look(backend: Backend) -> object:
        value: object = (backend.deepspeed_config(SHAPE) or {})["zero_optimization"]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return look


def trainer(name: str) -> Look:
    """An argument of the trainer."""
    return lambda backend: backend.training_args()[name]


COMMON: dict[str, tuple[dict[str, object], Look, object]] = {
    "device": ({"device": "cpu"}, trainer("use_cpu"), True),
    "num_processes": ({"num_processes": 3}, lambda backend: backend.local_processes(8), 3),
    "num_nodes": ({"num_nodes": 4}, lambda backend: backend.nodes, 4),
}

OWN: dict[str, tuple[dict[str, object], Look, object]] = {
    "ddp.bucket_mib": ({"bucket_mib": 7}, trainer("ddp_bucket_cap_mb"), 7),
    "ddp.find_unused_parameters": ({"find_unused_parameters": True}, trainer("ddp_find_unused_parameters"), True),
    "zero.stage": ({"stage": 3}, zero("stage"), 3),
    "zero.bucket_size": ({"bucket_size": 99}, zero("reduce_bucket_size"), 99),
    "zero.overlap_communication": ({"overlap_communication": False}, zero("overlap_comm"), False),
    "zero.offload.optimizer": ({"offload": {"optimizer": "cpu"}}, zero("offload_optimizer", "device"), "cpu"),
    "zero.offload.parameters": (
        {"stage": 3, "offload": {"parameters": "cpu"}}, zero("offload_param", "device"), "cpu",
    ),
    "zero.offload.nvme_path": ({"stage": 3, "offload": NVME}, zero("offload_optimizer", "nvme_path"), "/fast"),
    "fsdp.sharding": (
        {"sharding": "hybrid", "num_nodes": 4},
        accelerate("parallelism_config", "parallelism_config_dp_replicate_size"), 4,
    ),
    "fsdp.reshard_after_forward": (
        {"reshard_after_forward": False}, accelerate("fsdp_config", "fsdp_reshard_after_forward"), False,
    ),
    "fsdp.offload": ({"offload": "cpu"}, accelerate("fsdp_config", "fsdp_offload_params"), True),
}  # fmt: skip

CASES = {
    **{f"{name}.{key}": case for name, cls in variants_of(Backend).items() for key, case in COMMON.items()
       if key in cls.model_fields},
    **OWN,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_key_has_an_effect(case: str) -> None:
    given, look, value = CASES[case]
    cls = variants_of(Backend)[case.partition(".")[0]]
    assert look(cls.model_validate(given)) == value
    assert look(cls()) != value


def keys_of(section: type[Section], prefix: str) -> set[str]:
    found: set[str] = set()
    for key, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        found |= keys_of(field.annotation, f"{prefix}.{key}") if is_section else {f"{prefix}.{key}"}
    return found


def test_no_key_is_without_a_case() -> None:
    keys = {key for name, cls in variants_of(Backend).items() for key in keys_of(cls, name)}
    assert keys - {f"{name}.type" for name in variants_of(Backend)} == CASES.keys()


SHAPES: dict[str, tuple[object, tuple[str, ...], object]] = {
    "micro_batch_size": (3, ("train_micro_batch_size_per_gpu",), 3),
    "gradient_accumulation_steps": (5, ("gradient_accumulation_steps",), 5),
    "max_grad_norm": (0.25, ("gradient_clipping",), 0.25),
    "dtype": ("fp16", ("fp16", "enabled"), True),
    "processes": (4, ("train_batch_size",), 4 * 4 * 2 * 4),
    "nodes": (2, ("train_batch_size",), 2 * 8 * 2 * 4),
    "on_gpu": (False, ("zero_optimization", "offload_optimizer", "pin_memory"), False),
}


@pytest.mark.parametrize("number", SHAPES)
def test_a_number_of_the_shape_reaches_deepspeed(number: str) -> None:
    from dataclasses import replace

    from ftune.backends.zero import Offload, Zero

    given, keys, wanted = SHAPES[number]

    def found(shape: Shape) -> object:
        value: object = Zero(offload=Offload(optimizer="cpu")).deepspeed_config(shape)
        for key in keys:
            value = value[key] if isinstance(value, dict) else None
        return value

    assert found(replace(SHAPE, **{number: given})) == wanted != found(SHAPE)


def test_nothing_is_left_for_others_to_fill_in() -> None:
    from ftune.backends.asked import flat
    from ftune.backends.zero import Zero

    for stage in (1, 2, 3):
        config = Zero(stage=stage).deepspeed_config(SHAPE)
        assert "auto" not in str(config)
        assert all(value is not None for _, value in flat(config))


def test_auto_is_the_default_and_takes_keys_without_a_type() -> None:
    from pydantic import TypeAdapter

    from ftune.backends.choice import AnyBackend

    adapter = TypeAdapter(AnyBackend)
    assert adapter.validate_python({"device": "cpu"}) == Auto(device="cpu")
    assert adapter.validate_python("ddp").type == "ddp"
    assert adapter.validate_python({"type": "single", "device": "cpu"}).type == "single"
