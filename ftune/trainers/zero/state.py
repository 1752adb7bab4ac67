"""What trains and its optimiser's state under ZeRO, whole, whatever the stage, and wherever it is offloaded to."""

from typing import Any

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor

from ftune.core.errors import CheckpointError
from ftune.trainers.torch_state import KINDS_OF_KERNEL
from ftune.trainers.trained_state import TrainedState
from ftune.trainers.zero.pieces import fetched, pieces, publish, share

STEP = "step"


class ZeroState(TrainedState):
    """The state behind a DeepSpeed engine of ZeRO, which may have taken no step yet."""

    def __init__(self, engine: Any) -> None:
        self.zero = engine.optimizer
        named = engine.module.named_parameters()
        self.parameters = {name: value for name, value in named if value.requires_grad}
        self.pieces = pieces(self.zero)
        self._piece = {id(one): number for number, piece in enumerate(self.pieces) for one in piece.parameters}
        for number in range(len(self.pieces)):
            self._link(number)

    def names(self) -> list[str]:
        """The trained parameters, as the model names them, in its order."""
        return list(self.parameters)

    def weight(self, name: str) -> Tensor:
        """The whole parameter, in fp32."""
        value: Tensor = safe_get_full_fp32_param(self.parameters[name])
        return value

    def optimizer(self, name: str) -> dict[str, Tensor]:
        """The optimiser's tensors of one parameter, whole, and its count of steps; empty before any step.

        The count is that of the piece in which the parameter lies.
        """
        parameter = self.parameters[name]
        kept = self._state(parameter)
        tensors = sorted(key for key, value in kept.items() if isinstance(value, Tensor) and key != STEP)
        found = {key: safe_get_full_optimizer_state(parameter, key) for key in tensors}
        return found | ({STEP: torch.tensor(float(kept[STEP]))} if STEP in kept else {})

    def put_weight(self, name: str, value: Tensor) -> None:
        """Bring back a parameter; the model has it after `put_scalars`. Raises CheckpointError for another shape."""
        parameter = self.parameters[name]
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if tuple(value.shape) != shape:
            raise CheckpointError(f"'{name}' has shape {tuple(value.shape)}, that of the model {shape}")
        if hasattr(parameter, "ds_tensor"):
            safe_set_local_fp32_param(parameter, share(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    def put_optimizer(self, name: str, values: dict[str, Tensor]) -> None:
        """Bring back what `optimizer` gave."""
        if not values:
            return
        parameter = self.parameters[name]
        self._make_room(parameter, values)
        for key, value in values.items():
            if key == STEP:
                self._count(parameter, float(value))
            elif hasattr(parameter, "ds_tensor"):
                safe_set_local_optimizer_state(parameter, share(parameter, value), key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)

    def scalars(self) -> dict[str, Any]:
        """`groups`: parameters and hyperparameters of each; `scaler`: that of fp16."""
        names = {id(value): name for name, value in self.parameters.items()}
        groups = [
            {
                "parameters": [names[id(one)] for one in piece.parameters],
                "values": {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in piece.group.items()
                    if key not in _NOT_SAVED
                },
            }
            for piece in self.pieces
        ]
        scaler = self.zero.loss_scaler
        return {"groups": groups, "numbers": {}} | ({"scaler": dict(vars(scaler))} if scaler.dynamic else {})

    def put_scalars(self, values: dict[str, Any]) -> None:
        """Bring back what `scalars` gave, also that of other backends, and let the model have its weights."""
        saved = {name: group["values"] for group in values["groups"] for name in group["parameters"]}
        names = {id(value): name for name, value in self.parameters.items()}
        for piece in self.pieces:
            for key, value in saved[names[id(piece.parameters[0])]].items():
                if key in piece.group:
                    piece.group[key] = tuple(value) if isinstance(piece.group[key], tuple) else value
        if self.zero.loss_scaler.dynamic:
            vars(self.zero.loss_scaler).update(values.get("scaler", {}))
        publish(self.zero)

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """The inner optimiser's of the piece in which a parameter lies."""
        kept: dict[str, Any] = self.zero.optimizer.state.get(self.pieces[self._piece[id(parameter)]].flat, {})
        return kept

    def _make_room(self, parameter: torch.nn.Parameter, values: dict[str, Tensor]) -> None:
        """State of the parameter's piece as the first step would make it."""
        if self._state(parameter):
            return
        number = self._piece[id(parameter)]
        with fetched(self.zero, number):
            flat = self.pieces[number].flat
            keys = [key for key in values if key != STEP]
            self.zero.optimizer.state[flat] = {key: torch.zeros_like(flat.detach()) for key in keys}
        self._link(number)

    def _link(self, number: int) -> None:
        """Let each parameter have views of its piece's state, in stages 1 and 2.

        DeepSpeed does it after the first step of the first piece, when the others have no state yet.
        """
        piece = self.pieces[number]
        kept = self.zero.optimizer.state.get(piece.flat, {})
        for one in piece.parameters:
            if kept and (mapping := getattr(one, "_hp_mapping", None)) is not None:
                mapping.set_optim_state_fragment(piece.flat, kept)

    def _count(self, parameter: torch.nn.Parameter, step: float) -> None:
        piece = self.pieces[self._piece[id(parameter)]]
        on_device = piece.group.get("fused") or piece.group.get("capturable")
        counted = torch.tensor(step, device=piece.flat.device if on_device else "cpu")
        is_number = isinstance(self.zero.optimizer, DeepSpeedCPUAdam)
        self._state(parameter)[STEP] = int(step) if is_number else counted


_NOT_SAVED = {"params", *KINDS_OF_KERNEL}
