"""A process joins DeepSpeed with the process group that is there, on GPUs and on CPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import distributed
from torch.distributed import HashStore  # type: ignore[attr-defined]

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def zero_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of TrainingArguments with `deepspeed` among them, changed so that this process joins.

    transformers 5.23 makes accelerate's state itself, and on a CPU one that knows nothing of DeepSpeed: here it is made
    before, and transformers told to take it.
    """
    on_gpu = torch.cuda.is_available() and not args.get("use_cpu")
    os.environ["DS_ACCELERATOR"] = "cuda" if on_gpu else "cpu"  # before DeepSpeed looks for a device of its own
    import deepspeed

    # a reduction through shared memory, which DeepSpeed would compile for half a minute, and in which a process that
    # is left alone spins for ever: gloo does it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    AcceleratorState._reset_state(reset_partial_state=True)
    with _group(on_gpu=on_gpu), _said(ACCELERATE_USE_DEEPSPEED="true"):
        if on_gpu:
            PartialState()
        else:
            with _said(ACCELERATE_TORCH_DEVICE="cpu"):
                PartialState(backend="gloo")
    accelerator = {**(args.get("accelerator_config") or {}), "use_configured_state": True}
    return {**args, "use_cpu": not on_gpu, "accelerator_config": accelerator}


@contextmanager
def _group(*, on_gpu: bool) -> Iterator[None]:
    """A process alone needs a group too, of one, and DeepSpeed the variables of a launcher while it joins."""
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's engine asks for it too
    with _said(**({} if "RANK" in os.environ else ALONE)):
        yield


@contextmanager
def _said(**variables: str) -> Iterator[None]:
    """These variables in the environment, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {name: value} if value is not None else {}
