"""What `accelerate launch` asks of the processes it starts, read from the environment that it gives them."""

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftune.core.errors import LaunchError

_OF_ACCELERATE = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")
_V1_STRATEGIES = {
    "1": "FULL_SHARD",
    "2": "SHARD_GRAD_OP",
    "3": "NO_SHARD",
    "4": "HYBRID_SHARD",
    "5": "HYBRID_SHARD_ZERO2",
}
"""FSDP 1 takes a number for a name too."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A launcher's wishes; None and empty where it has none."""

    kind: Literal["zero", "fsdp"] | None = None
    use_cpu: bool = False
    mixed_precision: str | None = None
    """bf16, fp16 or no."""
    gradient_accumulation_steps: int | None = None
    max_grad_norm: float | None = None
    zero: dict[str, Any] = field(default_factory=dict)
    """What becomes the section `{type: zero}`."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """All values of DeepSpeed's own file, by dotted keys, `auto` left out."""
    deepspeed_file: str = ""
    fsdp: dict[str, Any] = field(default_factory=dict)
    """What becomes the section `{type: fsdp}`."""
    fsdp_version: int = 2
    activation_checkpointing: bool = False


def asked_of(environment: Mapping[str, str]) -> Asked:
    """The wishes in an environment. Raises LaunchError for those that no backend of ftune fulfils."""
    if is_on(environment, "ACCELERATE_USE_MEGATRON_LM"):
        raise LaunchError("the launcher asks for Megatron-LM, which ftune does not drive; use FSDP, DeepSpeed or DDP")
    _check_axes(environment)
    precision = environment.get("ACCELERATE_MIXED_PRECISION")
    if is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        return _asked_of_deepspeed(environment, precision)
    if is_on(environment, "ACCELERATE_USE_FSDP"):
        return _asked_of_fsdp(environment, precision)
    return Asked(mixed_precision=precision, use_cpu=is_on(environment, "ACCELERATE_USE_CPU"))


def forget(environment: MutableMapping[str, str]) -> None:
    """Take accelerate's wishes out of an environment, so that nothing but the recipe speaks to the libraries."""
    for name in [name for name in environment if name.startswith(_OF_ACCELERATE)]:
        del environment[name]


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether a variable says yes, in the words that accelerate takes."""
    return environment.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")


def _check_axes(environment: Mapping[str, str]) -> None:
    for axis, words in (("TP", "tensor"), ("CP", "context"), ("SP", "sequence")):
        size = environment.get(f"PARALLELISM_CONFIG_{axis}_SIZE", "1")
        if is_on(environment, "ACCELERATE_USE_PARALLELISM_CONFIG") and size != "1":
            raise LaunchError(
                f"the launcher asks for {words} parallelism over {size} processes, which ftune does not have; "
                f"remove parallelism_config_{axis.lower()}_size"
            )


def _asked_of_deepspeed(environment: Mapping[str, str], precision: str | None) -> Asked:
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    if file and file != "none":
        return _asked_of_file(file)

    def said(name: str) -> str | None:
        value = environment.get(f"ACCELERATE_{name}", "auto")
        return None if value in ("auto", "none") else value

    accumulation, clipping = said("GRADIENT_ACCUMULATION_STEPS"), said("GRADIENT_CLIPPING")
    offload = {
        "optimizer": said("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE") or "none",
        "parameters": said("DEEPSPEED_OFFLOAD_PARAM_DEVICE") or "none",
        "nvme_path": said("DEEPSPEED_OFFLOAD_OPTIMIZER_NVME_PATH") or said("DEEPSPEED_OFFLOAD_PARAM_NVME_PATH"),
    }
    return Asked(
        kind="zero",
        mixed_precision=precision,
        gradient_accumulation_steps=int(accumulation) if accumulation else None,
        max_grad_norm=float(clipping) if clipping else None,
        zero={"stage": int(said("DEEPSPEED_ZERO_STAGE") or 2), "offload": offload},
    )


def _asked_of_file(file: str) -> Asked:
    """The wishes in DeepSpeed's own file; accelerate lets nothing stand beside it."""
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchError(f"{file}: the launcher names it as DeepSpeed's configuration, but: {error}") from None
    values = dict(flat(given))
    zero: dict[str, Any] = {"stage": values.get("zero_optimization.stage", 0)}
    if "zero_optimization.reduce_bucket_size" in values:
        zero["bucket_size"] = int(values["zero_optimization.reduce_bucket_size"])
    if "zero_optimization.overlap_comm" in values:
        zero["overlap_communication"] = values["zero_optimization.overlap_comm"]
    optimizer, parameters = "zero_optimization.offload_optimizer", "zero_optimization.offload_param"
    zero["offload"] = {
        "optimizer": values.get(f"{optimizer}.device", "none"),
        "parameters": values.get(f"{parameters}.device", "none"),
        "nvme_path": values.get(f"{optimizer}.nvme_path") or values.get(f"{parameters}.nvme_path"),
    }
    return Asked(kind="zero", zero=zero, deepspeed=values, deepspeed_file=file)


def flat(given: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested mappings by dotted keys; None and `auto` say nothing and are left out."""
    found: list[tuple[str, Any]] = []
    for key, value in given.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        elif value is not None and value != "auto":
            found.append((f"{prefix}{key}", value))
    return found


def _asked_of_fsdp(environment: Mapping[str, str], precision: str | None) -> Asked:
    version = int(environment.get("FSDP_VERSION", "1"))
    strategy = environment.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
    strategy = _V1_STRATEGIES.get(strategy, strategy)
    reshard = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if version == 1:  # there the strategy says what FSDP2 has two settings for
        hybrid, whole = strategy.startswith("HYBRID"), strategy in ("FULL_SHARD", "HYBRID_SHARD")
    else:
        axes = is_on(environment, "ACCELERATE_USE_PARALLELISM_CONFIG")
        hybrid = axes and environment.get("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1") != "1"
        whole = reshard not in ("false", "shard_grad_op", "no_shard")
    return Asked(
        kind="fsdp",
        mixed_precision=precision,
        fsdp={
            "sharding": "hybrid" if hybrid else "full",
            "reshard_after_forward": whole,
            "offload": "cpu" if is_on(environment, "FSDP_OFFLOAD_PARAMS") else "none",
        },
        fsdp_version=version,
        activation_checkpointing=is_on(environment, "FSDP_ACTIVATION_CHECKPOINTING"),
    )
