"""Where a run computes: its processes, their devices, and the backend that holds them together."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.backends.asked import forget
from ftune.backends.base import Backend
from ftune.backends.ranks import Ranks
from ftune.backends.shape import Shape
from ftune.core.allocator import keep_freed_memory
from ftune.core.errors import LaunchError
from ftune.core.say import Say
from ftune.models.dtype import resolve_dtype

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe
    from ftune.recipes.training import TrainingRecipe


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


def find_place(recipe: "TrainingRecipe | PpoRecipe", ranks: Ranks, say: Say) -> Place:
    """What the recipe and the launcher ask for, on what is here. Raises LaunchError for what cannot be."""
    import torch

    world, gpus = ranks.world, torch.cuda.device_count()
    backend = recipe.backend.resolve(world, os.environ, gpus)
    try:
        recipe.check_backend(backend)
    except ValueError as error:
        raise LaunchError(str(error)) from None
    on_gpu = backend.on_gpu(gpus)
    if backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    processes, nodes = (world.local_count, world.nodes) if world else (1, 1)
    shape = shape_of(recipe, processes=processes, nodes=nodes, on_gpu=on_gpu)
    for sentence in backend.contradictions(world, os.environ, shape):
        say.warning(sentence)
    forget(os.environ)
    if not on_gpu:
        keep_freed_memory()
    return Place(ranks, backend, shape)


def shape_of(recipe: "TrainingRecipe | PpoRecipe", *, processes: int, nodes: int, on_gpu: bool, **more: Any) -> Shape:
    """The numbers of a recipe for so many processes on each of so many nodes.

    Raises LaunchError for a batch that the processes cannot share, RecipeError for weights that the device's products
    do not suit.
    """
    from ftune.recipes.ppo import PpoRecipe

    common: dict[str, Any] = {
        "processes": processes,
        "nodes": nodes,
        "max_grad_norm": recipe.optim.max_grad_norm,
        "dtype": resolve_dtype(recipe.model.dtype, on_gpu=on_gpu),
        "on_gpu": on_gpu,
        **more,
    }
    if isinstance(recipe, PpoRecipe):  # its loop makes its own batches, of which no backend is told
        return Shape(
            **common,
            micro_batch_size=recipe.ppo.micro_batch_size,
            gradient_accumulation_steps=1,
            activation_checkpointing=recipe.ppo.activation_checkpointing,
        )
    recipe.check_products(common["dtype"])
    try:
        accumulation = recipe.batch.accumulation(processes * nodes)
    except ValueError as error:
        raise LaunchError(str(error)) from None
    return Shape(
        **common,
        micro_batch_size=recipe.batch.rows_at_once,
        gradient_accumulation_steps=accumulation,
        activation_checkpointing=recipe.batch.recomputes,
    )
