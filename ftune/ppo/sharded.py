"""The actor-critic split over ranks by FSDP2."""

from typing import TYPE_CHECKING

import torch
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ftune.backends.engines.sharding import shard

if TYPE_CHECKING:
    from ftune.ppo.actor_critic import ActorCritic


def shard_actor_critic(actor_critic: "ActorCritic", device: torch.device, dtype: torch.dtype | None) -> None:
    """Split all parameters over the ranks, each decoder layer by itself; `dtype` is that of products, None for fp32.

    The value head computes in fp32, and heads of reward adapters stay whole: they are small, and more exact than
    products. To be called before an optimiser is made.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    fully_shard(actor_critic.value_head, mesh=mesh)
    shard(actor_critic, mesh, dtype, ignored=set(actor_critic.reward_heads.values()))
    ids_BS = torch.zeros(1, 2, dtype=torch.int64, device=device)
    with torch.no_grad():  # the first pass has to go through the root, later ones may not
        actor_critic("text", ids_BS, labels=ids_BS)
