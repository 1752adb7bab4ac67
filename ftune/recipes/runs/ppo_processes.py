"""The processes of a run of PPO, and the model spread over them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.ranks import Ranks
from ftune.core.errors import LaunchError
from ftune.core.say import Say
from ftune.recipes.runs.place import Place, find_place

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftune.ppo.actor_critic import ActorCritic
    from ftune.recipes.ppo import PpoRecipe


@dataclass(frozen=True, slots=True)
class Processes:
    """What a run computes on."""

    place: Place
    accelerator: "Accelerator"

    @property
    def split(self) -> bool:
        """Whether the model is split over the processes (FSDP2)."""
        return isinstance(self.place.backend, Fsdp)

    def spread(self, actor: "ActorCritic") -> Any:
        """The actor-critic for updates: copies kept alike by DDP, or itself, split.

        It is split here, since accelerate would round log-probabilities to the dtype of products, and would not split
        at all on CPUs. To be called before an optimiser is made.
        """
        if not self.split:
            return self.accelerator.prepare_model(actor)
        import torch

        from ftune.ppo.sharded import shard_actor_critic

        half = torch.bfloat16 if self.place.dtype == "bf16" else None
        shard_actor_critic(actor, self.accelerator.device, half)
        return actor


def open_processes(recipe: "PpoRecipe", ranks: Ranks, say: Say) -> Processes:
    """The device and the other processes. Raises LaunchError for what they cannot do."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    place = find_place(recipe, ranks, say)
    if place.dtype == "fp16":
        raise LaunchError("model.dtype: PPO's ratios need more than fp16 holds; use bf16 or fp32")
    ranks.open_group(on_gpu=place.on_gpu)
    settings: dict[str, Any] = place.backend.wrapper_settings() if isinstance(place.backend, Ddp) else {}
    wrapper = DistributedDataParallelKwargs(**settings, broadcast_buffers=False)  # buffers are constants
    accelerator = Accelerator(
        mixed_precision=place.shape.mixed_precision, cpu=not place.on_gpu, kwargs_handlers=[wrapper]
    )
    for key, size in (
        ("rollout.batch_size", recipe.rollout.batch_size),
        ("ppo.minibatch_size", recipe.ppo.minibatch_size),
    ):
        if size % ranks.count:
            raise LaunchError(
                f"{key}: {size} cannot be divided among {ranks.count} processes; use a multiple of {ranks.count}"
            )
    return Processes(place, accelerator)
