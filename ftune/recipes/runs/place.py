"""Where a run computes: its processes, their devices, and the backend that holds them together."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.backends.base import Backend
from ftune.backends.ranks import Ranks
from ftune.backends.shape import Shape
from ftune.core.allocator import keep_freed_memory
from ftune.core.errors import LaunchError
from ftune.core.say import Say
from ftune.models.dtype import resolve_dtype

if TYPE_CHECKING:
    from ftune.recipes.training import TrainingRecipe

OTHERS_SETTINGS = ("ACCELERATE_", "FSDP_")
"""What `accelerate launch` says by these variables was read, and compared with the recipe, which holds."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a run computes on."""

    ranks: Ranks
    backend: Backend
    """As the recipe says, with `auto` resolved."""
    shape: Shape
    """Its numbers, as all libraries get them."""

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on GPUs."""
        return self.shape.on_gpu

    @property
    def dtype(self) -> str:
        """Of products: bf16, fp16 or fp32."""
        return self.shape.dtype

    @property
    def device(self) -> str:
        """Of this process."""
        return f"cuda:{self.ranks.local_rank}" if self.on_gpu else "cpu"

    @property
    def rows_of_a_step(self) -> int:
        """Over all processes and micro-batches."""
        return self.shape.global_batch_size

    def training_args(self) -> dict[str, Any]:
        """The arguments of transformers' TrainingArguments that follow from it."""
        args = {
            **self.backend.training_args(),
            "use_cpu": not self.on_gpu,
            "bf16": self.dtype == "bf16",
            "fp16": self.dtype == "fp16",
        }
        deepspeed = self.backend.deepspeed_config(self.shape)
        return args | ({"deepspeed": deepspeed} if deepspeed is not None else {})


def find_place(recipe: "TrainingRecipe", ranks: Ranks, say: Say) -> Place:
    """What the recipe and the launcher ask for, on what is here. Raises LaunchError for what cannot be."""
    import torch

    gpus = torch.cuda.device_count()
    backend = recipe.backend.resolve(ranks.world, os.environ, gpus)
    on_gpu = backend.on_gpu(gpus)
    if backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    if on_gpu and ranks.local_rank >= gpus:
        raise LaunchError(
            f"process {ranks.rank} is the {ranks.local_rank + 1}th of its node, which has {gpus} GPUs; start as many "
            f"processes as there are GPUs"
        )
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    world = ranks.world
    try:
        accumulation = recipe.batch.accumulation(ranks.count)
    except ValueError as error:
        raise LaunchError(f"batch: {error}, with {ranks.count} processes") from None
    shape = Shape(
        processes=world.local_count if world else 1,
        nodes=world.nodes if world else 1,
        micro_batch_size=recipe.batch.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=recipe.optim.max_grad_norm,
        dtype=dtype,
        on_gpu=on_gpu,
    )
    for sentence in backend.contradictions(world, os.environ, shape):
        say.warning(sentence)
    for name in [name for name in os.environ if name.startswith(OTHERS_SETTINGS)]:
        del os.environ[name]
    if not on_gpu:
        keep_freed_memory()
    return Place(ranks, backend, shape)
