"""What all ways of combining tensors are built from."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PIECE = 1 << 16
"""Values of each tensor that are worked on at once: what is computed on the way fits the processor's cache."""


def weighted_sum(updates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i D_i, with no copy but the result."""
    first, *others = updates
    total = first * weights[0]
    for update, weight in zip(others, weights[1:], strict=True):
        total.add_(update, alpha=weight)
    return total


def in_pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of each tensor, one after the other, as flat views of contiguous tensors."""
    yield from zip(*(torch.split(tensor.reshape(-1), PIECE) for tensor in tensors), strict=True)
