"""What a recipe asks of a machine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftune.backends.machine import count_gpus
from ftune.core.errors import FtuneError
from ftune.core.several import several
from ftune.launch.doctor.finding import Finding, error, ok, warning

AREA = "recipe"


@dataclass(frozen=True)
class Needs:
    """Asked of this machine; the defaults are what a run without a recipe would need."""

    output: Path = Path("runs")
    backend: str = "auto"
    processes: int | None = None
    """On each node; None is one for each GPU, or 1."""
    nodes: int = 1
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    bitsandbytes: str = ""
    """The key that needs it."""
    deepspeed_ops: Mapping[str, str] = field(default_factory=dict)
    """Operations of DeepSpeed, each with the key that leads to it."""

    def on_node(self, gpus: int) -> int:
        """Processes of this node, where it has this many GPUs."""
        return self.processes or max(1, 0 if self.device == "cpu" else gpus)


def read(path: Path) -> tuple[Needs, list[Finding]]:
    """The needs of a recipe, and its faults as findings; a recipe with faults has no needs but the usual ones."""
    try:
        needs = load(path)
    except FtuneError as wrong:
        return Needs(), [error(AREA, line) for line in str(wrong).splitlines()]
    return needs, [ok(AREA, f"{path}: no faults in it")]


def load(path: Path) -> Needs:
    """The needs of a recipe. Raises RecipeError for its faults, LaunchError where its backend cannot be had here."""
    from ftune.backends.base import Backend
    from ftune.recipes.load import load_recipe

    recipe = load_recipe(None, path).recipe
    needs, backend = of_values(recipe.resolved()), getattr(recipe, "backend", None)
    if not isinstance(backend, Backend):  # a command that computes in one process
        return replace(needs, processes=1)
    gpus = count_gpus()
    resolved = backend.resolve(None, os.environ, gpus)
    return replace(needs, backend=resolved.name, processes=resolved.local_processes(gpus), nodes=resolved.nodes)


def of_values(values: Mapping[str, Any]) -> Needs:
    """From all values of a recipe, defaults included; sections that its command does not have ask for nothing."""
    backend, model = values.get("backend") or {}, values.get("model") or {}
    optimizer = str((values.get("optim") or {}).get("optimizer", ""))
    quantization = str((model.get("quantization") or {}).get("type", "none"))
    bitsandbytes = ""
    if quantization in ("nf4", "int8"):
        bitsandbytes = f"model.quantization: {quantization}"
    elif "8bit" in optimizer or "paged" in optimizer:
        bitsandbytes = f"optim.optimizer: {optimizer}"
    return Needs(
        output=Path(values.get("output_dir") or "runs"),
        backend=str(backend.get("type", "single")),
        device=str(backend.get("device", "auto")),
        dtype=str(model.get("dtype", "auto")),
        attention=str(model.get("attention", "auto")),
        bitsandbytes=bitsandbytes,
        deepspeed_ops=_deepspeed_ops(backend),
    )


def judge(needs: Needs, gpus: Sequence[Mapping[str, Any]], *, has_deepspeed: bool) -> Iterator[Finding]:
    """The recipe's backend against this machine's GPUs and packages."""
    count = needs.on_node(len(gpus))
    where = "GPUs" if gpus and needs.device != "cpu" else "the CPU"
    each, nodes = several(count, "process", "processes"), several(needs.nodes, "node")
    told = f"backend {needs.backend}: {each} a node, {nodes}, on {where}"
    if needs.device != "cpu" and gpus and count > len(gpus):
        yield error(
            AREA,
            f"{told}; this machine has {several(len(gpus), 'GPU')}",
            f"set backend.num_processes: auto, or at most {len(gpus)}; or give the job more GPUs",
        )
    elif needs.device == "cuda" and not gpus:
        yield error(AREA, f"{told}; but backend.device is cuda and no GPU can be used", "set backend.device: auto")
    elif needs.backend == "zero" and not has_deepspeed:
        yield error(AREA, f"{told}; DeepSpeed is not installed", "pip install 'ftune[deepspeed]'")
    else:
        yield ok(AREA, told)
    oldest = min((tuple(gpu["capability"]) for gpu in gpus), default=None)
    if needs.dtype == "fp16" and (oldest is None or needs.device == "cpu"):
        yield error(AREA, "model.dtype is fp16, which trains on GPUs alone", "set model.dtype: auto")
    if needs.dtype in ("auto", "bf16") and oldest is not None and oldest < (8, 0) and needs.device != "cpu":
        yield warning(AREA, f"model.dtype {needs.dtype} is bf16, which these GPUs do slowly", "set model.dtype: fp16")


def _deepspeed_ops(backend: Mapping[str, Any]) -> dict[str, str]:
    """Offloaded optimizer states are updated by cpu_adam; NVMe is read and written by async_io."""
    if backend.get("type") != "zero":
        return {}
    ops: dict[str, str] = {}
    for part, place in (backend.get("offload") or {}).items():
        key = f"backend.offload.{part}: {place}"
        if part == "optimizer" and place in ("cpu", "nvme"):
            ops["cpu_adam"] = key
        if place == "nvme":
            ops["async_io"] = key
    return ops
