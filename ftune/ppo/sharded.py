"""Parameters that FSDP2 has split over ranks, whole and back. Without FSDP2 nothing happens here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from ftune.ppo.actor_critic import ActorCritic


def shard(actor_critic: "ActorCritic", device: torch.device, dtype: torch.dtype | None) -> None:
    """Split all parameters over the ranks, each decoder layer by itself; `dtype` is that of products, None for fp32.

    Gradients are summed in fp32. The value head computes in fp32, and heads of reward adapters stay whole: they are
    small, and more exact than products. To be called before an optimiser is made.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    kinds = {kind for module in actor_critic.modules() for kind in getattr(module, "_no_split_modules", None) or ()}
    for module in list(actor_critic.modules()):
        if type(module).__name__ in kinds:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(actor_critic.value_head, mesh=mesh)
    fully_shard(actor_critic, mesh=mesh, mp_policy=precision, ignored_params=set(actor_critic.reward_heads.values()))
    ids_BS = torch.zeros(1, 2, dtype=torch.int64, device=device)
    with torch.no_grad():  # the first pass has to go through the root, later ones may not
        actor_critic("text", ids_BS, labels=ids_BS)


def is_split(module: nn.Module) -> bool:
    """Whether FSDP2 has split the module, or parts of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def trained(module: nn.Module, *, twice: bool = False) -> dict[str, Tensor]:
    """What trains, by name, without gradients and sharded where it is; weights with two names once, or `twice`.

    Between a forward and a backward pass modules hold gathered copies. FSDP2 puts the shards back before it lets a
    `state_dict` be made.
    """
    named = module.named_parameters(remove_duplicate=not twice)
    parameters = {name: value.detach() for name, value in named if value.requires_grad}
    if not is_split(module):
        return parameters
    return {name: value for name, value in module.state_dict().items() if name in parameters}


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or a copy of the one whose shards all ranks hold, which they gather together."""
    # what torch gathers is still on its way, and has no memory that could be saved, until something is done with it
    return value.full_tensor().clone() if isinstance(value, DTensor) else value


def like(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, as it is split in `place`, and on its device."""
    value = value.to(place.device)
    return distribute_tensor(value, place.device_mesh, place.placements) if isinstance(place, DTensor) else value


def gathered_values(named: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Values by their names, tensors among them whole; where one was split, on the CPU. Empty without `keep`.

    Every rank has to call it.
    """
    found = {}
    for name, value in named.items():
        gathered = whole(value).cpu() if isinstance(value, DTensor) else value
        if keep:
            found[name] = gathered
    return found


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Every rank has all weights, in the number format of products, and passes exchange nothing.

    For generation, which calls inner modules, and for judging, of which ranks may have unequal shares.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    try:
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not module, recurse=False)
            part.reshard()


@contextmanager
def gathered(module: nn.Module, *, keep: bool = True) -> Iterator[None]:
    """What trains stands whole, exact and on the CPU in the module's `state_dict`: for saving. Every rank has to enter.

    Without `keep` it is only gathered for the others. FSDP2 puts shards back into modules before it lets a
    `state_dict` be made, so they are replaced in the result.
    """
    split = {name: value for name, value in trained(module, twice=True).items() if isinstance(value, DTensor)}
    wholes = gathered_values(split, keep=keep)

    def replace(_: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
        state.update({f"{prefix}{name}": value for name, value in wholes.items()})

    hook = module.register_state_dict_post_hook(replace)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
