"""Frozen weights of several layers as one matrix, with room for adapters beside them."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Whole(Protocol):
    """Makes a matrix."""

    def __call__(self, *, again: bool = False) -> Tensor:
        """`again` in the backward pass."""


class Frozen:
    """[W, low]: the weights of layers below one another, (outputs, inputs), and columns that are written elsewhere."""

    def __init__(self, low: Tensor, whole: Whole) -> None:
        """`whole` makes the matrix of it."""
        self.low, self.whole, self.dtype = low, whole, low.dtype

    @staticmethod
    def knows(layer: Any) -> bool:
        """Whether the weights are plain ones of a linear layer, or NF4 of bitsandbytes on a GPU.

        bitsandbytes 0.50 keeps them in another order on a CPU, as soon as they are used without gradients.
        """
        base = layer.get_base_layer()
        plain = type(base) is nn.Linear and base.weight.is_floating_point()
        return plain or (_is_4bit(base) and base.weight.is_cuda)

    @staticmethod
    def alike(one: Any, other: Any) -> bool:
        """Whether the weights of two layers can stand in one matrix."""
        first, second = one.get_base_layer(), other.get_base_layer()
        return (
            type(first) is type(second)
            and first.in_features == second.in_features
            and _dtype(first) == _dtype(second)
            and first.weight.device == second.weight.device
            and (first.bias is None) == (second.bias is None)
        )


def frozen_weights(layers: Sequence[Any], low: int) -> Frozen:
    """The weights of peft's `layers`, which are views of the matrix from now on; quantised ones are made when asked."""
    bases = [layer.get_base_layer() for layer in layers]
    dtype, device = _dtype(bases[0]), bases[0].weight.device
    outputs, inputs = sum(base.out_features for base in bases), bases[0].in_features
    if _is_4bit(bases[0]):
        columns = torch.zeros(outputs, low, dtype=dtype, device=device)

        def unpacked(*, again: bool = False) -> Tensor:
            return torch.cat([torch.cat([_dequantized(base, again=again) for base in bases]), columns], 1)

        return Frozen(columns, unpacked)
    matrix = torch.zeros(outputs, inputs + low, dtype=dtype, device=device)
    row = 0
    for base in bases:
        place = matrix[row : row + base.out_features, :inputs]
        place.copy_(base.weight.data)
        base.weight.data = place
        row += base.out_features
    return Frozen(matrix[:, inputs:], lambda *, again=False: matrix)


def _is_4bit(base: Any) -> bool:
    return getattr(getattr(base, "weight", None), "quant_state", None) is not None and base.weight.dtype == torch.uint8


def _dtype(base: Any) -> torch.dtype:
    dtype: torch.dtype = base.weight.quant_state.dtype if _is_4bit(base) else base.weight.dtype
    return dtype


def _dequantized(base: Any, *, again: bool) -> Tensor:
    """The weights of a layer; `again` by a path of its own, or a compiler would keep what the first one has made."""
    from bitsandbytes.functional import dequantize_4bit

    packed = base.weight.data
    if again:
        packed = packed.flatten().unflatten(0, packed.shape)
    weight: Tensor = dequantize_4bit(packed, base.weight.quant_state)
    return weight
