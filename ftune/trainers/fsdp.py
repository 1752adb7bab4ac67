"""transformers' Trainer on a model that FSDP2 has split over the ranks beforehand."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh

from ftune.backends.engines.sharding import is_split, put_back, shard

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

PRODUCTS: dict[str, torch.dtype | None] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


def split_model(
    model: "PreTrainedModel",
    device: torch.device,
    dtype: str,
    *,
    copies: int = 1,
    reshard_after_forward: bool = True,
    offload: bool = False,
) -> None:
    """Split a model, in place, before a trainer is made of it: over all ranks, or over those of each of `copies` nodes.

    `dtype` is that of products: bf16, fp16 or fp32. The model is best on the CPU until then: each layer goes to the
    device and leaves its shard there. Raises LaunchError for a model that cannot be split.
    """
    ranks = get_world_size()
    sizes, names = ((copies, ranks // copies), ("copy", "shard")) if copies > 1 else ((ranks,), ("shard",))
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
    shard(model, mesh, PRODUCTS[dtype], reshard_after_forward=reshard_after_forward, offload=offload)


def leave_split(trainer: "Trainer") -> None:
    """Let accelerate take a split model as it is, where it would refuse to put DDP around it; before `train`.

    Its optimiser gets the shards, also where the model has been looked at before and holds gathered copies.
    """
    if is_split(trainer.model):
        put_back(trainer.model)
        trainer.accelerator.prepare_model = partial(trainer.accelerator.prepare_model, evaluation_mode=True)
