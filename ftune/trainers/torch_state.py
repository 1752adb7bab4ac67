"""What trains and its optimiser's state where parameters are torch's: one process, DDP, FSDP2."""

from typing import Any

import torch
from torch import Tensor

from ftune.backends.engines.sharding import like, put_back, whole
from ftune.core.errors import CheckpointError
from ftune.trainers.trained_state import TrainedState

KINDS_OF_KERNEL = {"capturable", "differentiable", "foreach", "fused"}
"""Hyperparameters that say how a step is computed on this device, not what it is."""


class TorchState(TrainedState):
    """The state of a model and of any optimiser of torch, transformers or bitsandbytes that keeps tensors and numbers.

    Made anew for each save or load: after a forward pass FSDP2 may hold copies in place of what the optimiser knows.
    """

    def __init__(self, model: torch.nn.Module, optimizer: Any = None) -> None:
        """`model` is that of the trainer, not wrapped by DDP; without `optimizer` there are only weights."""
        put_back(model)
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.state: dict[Tensor, dict[str, Any]] = optimizer.state if optimizer is not None else {}
        groups = optimizer.param_groups if optimizer is not None else []
        self.groups: list[dict[str, Any]] = [group for group in groups if group["params"]]

    def names(self) -> list[str]:
        """The trained parameters, as the model names them, in its order."""
        return list(self.parameters)

    def weight(self, name: str) -> Tensor:
        """The whole parameter."""
        return whole(self.parameters[name].detach())

    def optimizer(self, name: str) -> dict[str, Tensor]:
        """The optimiser's tensors of one parameter by their keys, whole; empty before any step."""
        kept = self.state.get(self.parameters[name], {})
        return {key: whole(value.detach()) for key, value in sorted(kept.items()) if isinstance(value, Tensor)}

    def put_weight(self, name: str, value: Tensor) -> None:
        """Bring back a whole parameter. Raises CheckpointError for one of another shape."""
        place = self.parameters[name]
        if value.shape != place.shape:
            raise CheckpointError(f"'{name}' has shape {tuple(value.shape)}, that of the model {tuple(place.shape)}")
        with torch.no_grad():
            place.copy_(like(value, place))

    def put_optimizer(self, name: str, values: dict[str, Tensor]) -> None:
        """Bring back what `optimizer` gave: what has its parameter's shape is split as the parameter is."""
        if not values:
            return
        place = self.parameters[name]
        group = next(group for group in self.groups if any(one is place for one in group["params"]))
        kept = {}
        for key, value in values.items():
            if value.dim() and value.shape == place.shape:
                kept[key] = like(value, place)
            elif key == "step" and not (group.get("fused") or group.get("capturable")):
                kept[key] = value.cpu()  # where torch counts
            else:
                kept[key] = value.to(place.device)
        self.state[place] = kept

    def scalars(self) -> dict[str, Any]:
        """`groups`: the parameters and hyperparameters of each; `numbers`: what a parameter's state has of them."""
        names = {id(value): name for name, value in self.parameters.items()}
        groups = [
            {
                "parameters": [names[id(value)] for value in group["params"]],
                "values": {key: _plain(key, value) for key, value in group.items() if key not in _NOT_SAVED},
            }
            for group in self.groups
        ]
        numbers = {
            name: {key: _plain(key, value) for key, value in kept.items() if not isinstance(value, Tensor)}
            for name, place in self.parameters.items()
            if (kept := self.state.get(place))
        }
        return {"groups": groups, "numbers": {name: kept for name, kept in numbers.items() if kept}}

    def put_scalars(self, values: dict[str, Any]) -> None:
        """Bring back what `scalars` gave, also where the parameters are grouped differently now."""
        saved = {name: group["values"] for group in values["groups"] for name in group["parameters"]}
        names = {id(value): name for name, value in self.parameters.items()}
        for group in self.groups:
            for key, value in saved[names[id(group["params"][0])]].items():
                if key in group:
                    group[key] = tuple(value) if isinstance(group[key], tuple) else value
        for name, kept in values["numbers"].items():
            self.state.setdefault(self.parameters[name], {}).update(kept)


_NOT_SAVED = {"params", *KINDS_OF_KERNEL}


def _plain(key: str, value: Any) -> Any:
    """A number, text or list of them. Raises CheckpointError for what a checkpoint cannot hold without code."""
    if isinstance(value, list | tuple):
        return [_plain(key, one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"the optimiser's '{key}' is a {type(value).__name__}; a checkpoint holds tensors and numbers"
    )
