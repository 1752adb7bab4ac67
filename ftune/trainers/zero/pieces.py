"""The flat pieces that a rank steps on under ZeRO, and which parameters lie in them: one view of stages 1, 2 and 3."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call of the inner optimiser steps on: this rank's share of some parameters, end to end, in fp32."""

    flat: torch.nn.Parameter
    """Empty while it lies on a drive."""
    numel: int
    parameters: list[torch.nn.Parameter]
    group: dict[str, Any]
    """The inner optimiser's hyperparameters."""


def pieces(zero: Any) -> list[Piece]:
    """Those of DeepSpeed's optimiser `zero`."""
    groups = zero.optimizer.param_groups
    if not isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
        return [
            Piece(flat, flat.numel(), list(parameters), group)
            for flat, parameters, group in zip(
                zero.single_partition_of_fp32_groups, zero.bit16_groups, groups, strict=True
            )
        ]
    return [
        Piece(flat, int(numel), list(parameters), groups[zero.sub_group_to_group_id[number]])
        for number, (flat, numel, parameters) in enumerate(
            zip(
                zero.fp32_partitioned_groups_flat,
                zero.fp16_partitioned_groups_flat_numel,
                zero.fp16_groups,
                strict=True,
            )
        )
    ]


@contextmanager
def fetched(zero: Any, number: int) -> Iterator[None]:
    """A piece is in memory, with its state; what is changed inside goes back to the drive it came from."""
    swaps = isinstance(zero, DeepSpeedZeroOptimizer_Stage3) and zero._swappable_optimizer_subgroup(number)
    if swaps:
        zero._optimizer_states_and_gradient_swap_in(number)
    try:
        yield
    finally:
        if swaps:
            zero._optimizer_states_and_gradient_swap_out(number)


def share(parameter: torch.nn.Parameter, value: Tensor) -> Tensor:
    """What stage 3 keeps of a whole tensor on this rank: an even part of it, flat, the last one filled with zeros."""
    size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
    rank = distributed.get_rank(parameter.ds_process_group)  # type: ignore[attr-defined]
    mine = value.flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(mine, (0, size - mine.numel()))


@torch.no_grad()
def publish(zero: Any) -> None:
    """Let the model have the weights that its pieces hold, as after a step. To be called on all ranks."""
    if not isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        with fetched(zero, number):
            zero._reassign_or_swap_out_partitioned_parameters(number)
    if zero.persistent_parameters:  # small ones, which each rank has whole between steps
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
