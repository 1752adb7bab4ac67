"""Backends and worlds whose configurations are kept in golden/; `python -m tests.backends.cases` writes them anew."""

import json
from pathlib import Path
from typing import Any

import yaml

from ftune.backends.base import Backend
from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.shape import Shape
from ftune.backends.single import Single
from ftune.backends.zero import Offload, Zero

GOLDEN = Path(__file__).parent / "golden"

WORLDS = {"1": (1, 1), "2": (2, 1), "8": (8, 1), "4x8": (8, 4)}
"""Processes on each node, and nodes."""

BACKENDS: dict[str, Backend] = {
    "ddp": Ddp(),
    "zero1": Zero(stage=1),
    "zero2_cpu": Zero(offload=Offload(optimizer="cpu")),
    "zero3": Zero(stage=3),
    "zero3_nvme": Zero(stage=3, offload=Offload(optimizer="nvme", parameters="nvme", nvme_path="/local_nvme")),
    "fsdp": Fsdp(),
    "fsdp_offload": Fsdp(reshard_after_forward=False, offload="cpu"),
}

CASES: dict[str, tuple[Backend, tuple[int, int]]] = {
    "single-1": (Single(), WORLDS["1"]),
    **{f"{name}-{size}": (backend, world) for name, backend in BACKENDS.items() for size, world in WORLDS.items()},
    "fsdp_hybrid-4x8": (Fsdp(sharding="hybrid", num_nodes=4), WORLDS["4x8"]),
}

DTYPES = {"zero1": "fp32", "zero2_cpu": "fp16"}
"""Backends of the cases that do not compute in bf16."""


def shape_of(case: str, **other: Any) -> Shape:
    """The shape of a case: 2 rows x 4 micro-batches on each process."""
    processes, nodes = CASES[case][1]
    numbers: dict[str, Any] = {
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_grad_norm": 0.5,
        "dtype": DTYPES.get(case.partition("-")[0], "bf16"),
        "on_gpu": True,
        "deepspeed_file": f"{case}.deepspeed.json",
    }
    return Shape(processes=processes, nodes=nodes, **numbers | other)


def files_of(case: str) -> dict[str, str]:
    """The configurations of a case by file name."""
    backend, shape = CASES[case][0], shape_of(case)
    files = {f"{case}.yaml": yaml.safe_dump(backend.accelerate_config(shape))}
    deepspeed = backend.deepspeed_config(shape)
    if deepspeed is not None:
        files[f"{case}.deepspeed.json"] = json.dumps(deepspeed, indent=2, sort_keys=True) + "\n"
    return files


if __name__ == "__main__":
    for written in CASES:
        for name, text in files_of(written).items():
            (GOLDEN / name).write_text(text, encoding="utf-8")
