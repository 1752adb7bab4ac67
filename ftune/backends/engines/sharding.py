"""A model split over ranks by FSDP2 (torch's `fully_shard`), its tensors whole and back. Without it nothing happens.

ftune splits by itself, where accelerate could: accelerate splits on GPUs alone and rounds what a model gives.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ftune.core.errors import LaunchError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(
    model: nn.Module,
    mesh: "DeviceMesh",
    dtype: torch.dtype | None,
    *,
    reshard_after_forward: bool = True,
    offload: bool = False,
    ignored: set[nn.Parameter] | None = None,
) -> None:
    """Split all parameters but those `ignored` over the ranks of `mesh`: each decoder layer by itself, then the rest.

    A mesh of two dimensions keeps copies along the first and splits along the second (hybrid sharding). `dtype` is
    that of products, None for the parameters' own; gradients are summed in fp32. With `reshard_after_forward` a
    layer's weights are gathered again for its backward pass; without, they stay from the forward pass on: faster, for
    the memory of all weights. `offload` keeps shards, gradients and the optimiser's state in the CPU's memory.

    A model on the CPU goes to the mesh's device layer by layer, so that a device never holds the whole. To be called
    before an optimiser is made. A module with `keeps_dtype` computes with its weights as they are. Raises LaunchError
    for a model that does not name its layers.
    """
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    pin = mesh.device_type != "cpu"
    policy: OffloadPolicy = CPUOffloadPolicy(pin_memory=pin) if offload else OffloadPolicy()
    kinds = {kind for module in model.modules() for kind in getattr(module, "_no_split_modules", None) or ()}
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise LaunchError(
            f"backend.type: a {type(model).__name__} does not name its decoder layers, by which FSDP2 splits a model; "
            f"use 'zero' or 'ddp'"
        )
    own = [module for module in model.modules() if getattr(type(module), "keeps_dtype", False)]
    for module in [*layers, *own, model]:
        fully_shard(
            module,
            mesh=mesh,
            # those of a head and of the root are wanted right after their forward pass
            reshard_after_forward=reshard_after_forward and module in layers,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32) if module in own else precision,
            offload_policy=policy,
            ignored_params=ignored,
        )


def is_split(module: nn.Module) -> bool:
    """Whether FSDP2 has split the module, or parts of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def trained(module: nn.Module) -> dict[str, Tensor]:
    """What trains, by name, without gradients and sharded where it is; weights with two names once.

    Between a forward and a backward pass modules hold gathered copies. FSDP2 puts the shards back before it lets a
    `state_dict` be made.
    """
    parameters = {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
    if not is_split(module):
        return parameters
    return {name: value for name, value in module.state_dict().items() if name in parameters}


def put_back(module: nn.Module) -> None:
    """Let the module hold the parameters that an optimiser knows: a forward pass may leave gathered copies in it."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def device_of(module: nn.Module) -> torch.device:
    """Where it computes; offloaded shards lie elsewhere."""
    value = next(module.parameters())
    if isinstance(value, DTensor) and value.device_mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return value.device


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or a copy of the one whose shards all ranks hold, which they gather together."""
    # what torch gathers is still on its way, and has no memory that could be saved, until something is done with it
    return value.full_tensor().clone() if isinstance(value, DTensor) else value


def like(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, as it is split in `place`, and on its device; ranks exchange nothing."""
    if not isinstance(place, DTensor):
        return value.to(place.device)
    split = distribute_tensor(value, place.device_mesh, place.placements, src_data_rank=None)
    if split.device == place.device:
        return split
    offloaded: Any = torch.empty_like(place, dtype=value.dtype)  # torch has split it on the mesh's device
    offloaded.to_local().copy_(split.to_local())
    kept: Tensor = offloaded
    return kept


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
def gathered(
    module: nn.Module, *, keep: bool = True, frozen: Callable[[str], bool] = lambda name: False
) -> Iterator[None]:
    """What trains stands whole, exact and on the CPU in the module: for saving. Every rank has to enter.

    So does of all else what `frozen` says of its name. Without `keep` it is only gathered for the others. A pass
    through modules that stand whole waits for no other rank, as what peft saves of virtual tokens needs it.
    """
    put_back(module)
    split = {
        name: value
        for name, value in module.named_parameters()
        if isinstance(value, DTensor) and (value.requires_grad or frozen(name))
    }
    wholes = gathered_values({name: value.detach() for name, value in split.items()}, keep=keep)
    by_value = {id(split[name]): nn.Parameter(one, requires_grad=False) for name, one in wholes.items()}
    places = [
        (part, name, value)
        for part in module.modules()
        for name, value in part._parameters.items()
        if id(value) in by_value
    ]
    try:
        for part, name, value in places:  # weights with two names stay one, of which a file has one
            part._parameters[name] = by_value[id(value)]
        yield
    finally:
        for part, name, value in places:
            part._parameters[name] = value
