"""The GPU of this machine as an entry of the catalogue, with the memory that it really has."""

import shutil
import subprocess
from dataclasses import replace

from ftune.backends.machine import count_gpus
from ftune.plan.gpus import GPUS, Gpu, gpu_of_device
from ftune.plan.overhead import CONTEXT

COMMON = ("rtx4090", "a100-40", "l40s", "a100-80", "h100", "h200", "mi300x")
"""What a recipe is held against where nobody names a GPU and none is here."""

WITHOUT_BF16 = ("t4", "v100-16", "v100-32")
"""Their products of bf16 are emulated, so `model.dtype: auto` takes fp16."""

ANSWER_S = 10.0
MIB = 2**20


def gpu_here() -> Gpu | None:
    """The first GPU that nvidia-smi tells of; None without one. torch is not asked: that takes seconds."""
    program = shutil.which("nvidia-smi")
    if not count_gpus() or program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_S, check=True)
        name, total = done.stdout.splitlines()[0].rsplit(",", 1)
        memory = int(total) * MIB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    known = gpu_of_device(name)
    return replace(known, usable=min(known.usable, memory)) if known else Gpu(name.strip(), memory, None, None)


def gpu_of_torch(index: int) -> Gpu:
    """The GPU that this process computes on, with what is free of its memory; for inside a run."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    own = torch.cuda.memory_reserved(index) + CONTEXT  # this run's already
    name, usable = torch.cuda.get_device_name(index), min(total, free + own)
    known = gpu_of_device(name)
    return replace(known, usable=usable) if known else Gpu(name, usable, None, None)


def has_bf16(gpu: Gpu) -> bool:
    """Whether it computes bf16 itself."""
    return gpu.name not in [GPUS[name].name for name in WITHOUT_BF16]
