"""The processes of a run of PPO, as `torchrun` or `accelerate launch` made them, and the model spread over them."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.core.allocator import keep_freed_memory
from ftune.core.errors import LaunchError
from ftune.models.dtype import resolve_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftune.ppo.actor_critic import ActorCritic
    from ftune.recipes.ppo import PpoRecipe

SHARDED_OPTIMIZERS = ("adamw", "sgd")
"""Those whose state is split as their parameters are."""


@dataclass(frozen=True, slots=True)
class Processes:
    """What a run computes on."""

    accelerator: "Accelerator"
    """The device, and the other processes."""
    dtype: str
    """Of products: bf16 or fp32."""
    split: bool
    """Whether the launcher asks for a model that is split over them (FSDP2)."""

    def spread(self, actor: "ActorCritic") -> Any:
        """The actor-critic for updates: copies kept alike by DDP, or itself, split.

        It is split here, since accelerate would round log-probabilities to the dtype of products, and would not split
        at all on CPUs. To be called before an optimiser is made.
        """
        if not self.split:
            return self.accelerator.prepare_model(actor)
        import torch

        from ftune.ppo.sharded import shard_actor_critic

        shard_actor_critic(actor, self.accelerator.device, torch.bfloat16 if self.dtype == "bf16" else None)
        return actor


def open_processes(recipe: "PpoRecipe") -> Processes:
    """The device and the other processes. Raises LaunchError for what they cannot do."""
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs

    on_gpu = torch.cuda.is_available() and recipe.backend.device != "cpu"
    if recipe.backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    if dtype == "fp16":
        raise LaunchError("model.dtype: PPO's ratios need more than fp16 holds; use bf16 or fp32")
    _check_launcher(recipe)
    split = _asked("ACCELERATE_USE_FSDP")
    os.environ["ACCELERATE_USE_FSDP"] = "false"  # or transformers would load weights on one rank only
    if not on_gpu:
        keep_freed_memory()
    buffers = DistributedDataParallelKwargs(broadcast_buffers=False)  # they are constants, the same everywhere
    accelerator = Accelerator(
        mixed_precision="bf16" if dtype == "bf16" else "no", cpu=not on_gpu, kwargs_handlers=[buffers]
    )
    ranks = accelerator.num_processes
    for key, size in (
        ("rollout.batch_size", recipe.rollout.batch_size),
        ("ppo.minibatch_size", recipe.ppo.minibatch_size),
    ):
        if size % ranks:
            raise LaunchError(f"{key}: {size} cannot be divided among {ranks} processes; use a multiple of {ranks}")
    return Processes(accelerator, dtype, split)


def _check_launcher(recipe: "PpoRecipe") -> None:
    """Raises LaunchError for what `accelerate launch` was asked for and PPO cannot do."""
    if _asked("ACCELERATE_USE_DEEPSPEED"):
        raise LaunchError(
            "the launcher asks for DeepSpeed, whose engine steps within the backward pass, where PPO can neither skip "
            "nor end updates; launch with torchrun (DDP, right for LoRA), or where the model does not fit on one "
            "device with 'accelerate launch --use_fsdp --fsdp_version 2' (FSDP2)"
        )
    if not _asked("ACCELERATE_USE_FSDP"):
        return
    if os.environ.get("FSDP_VERSION") != "2":
        raise LaunchError("the launcher asks for FSDP 1; add --fsdp_version 2")
    if _asked("FSDP_OFFLOAD_PARAMS"):
        raise LaunchError("--fsdp_offload_params: PPO keeps shards on their device; remove it")
    if _asked("FSDP_ACTIVATION_CHECKPOINTING"):
        raise LaunchError("--fsdp_activation_checkpointing: use 'ppo.activation_checkpointing: true' in the recipe")
    if recipe.model.quantization.type != "none":
        raise LaunchError("model.quantization: quantised weights are not split by FSDP2; launch with torchrun (DDP)")
    if recipe.optim.optimizer not in SHARDED_OPTIMIZERS:
        raise LaunchError(
            f"optim.optimizer: the state of '{recipe.optim.optimizer}' is not split by FSDP2; use "
            f"{' or '.join(SHARDED_OPTIMIZERS)}"
        )
    if recipe.rollout.type not in ("auto", "generate"):
        raise LaunchError(f"rollout.type: '{recipe.rollout.type}' cannot use weights split by FSDP2; use 'generate'")


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")
