"""Compacter's linear layers (arXiv:2106.04647): weights as sums of Kronecker products."""

import torch
from torch import Tensor, nn


def shared_factors(dimension: int) -> nn.Parameter:
    """The n matrices A_i, shape (n, n, n), that all projections of all layers share."""
    return nn.Parameter(torch.randn(dimension, dimension, dimension) * dimension**-0.5)


class KroneckerLinear(nn.Module):
    """W = sum_i A_i kron (s_i t_i) with shared A_i and s_i, t_i of rank r: r (inputs + outputs) of its own, and a bias.

    The number of products divides both sizes. At the start W keeps the size of its input, or is zero.
    """

    def __init__(self, inputs: int, outputs: int, dimension: int, rank: int, *, zero: bool) -> None:
        super().__init__()
        left = torch.zeros if zero else torch.randn
        self.left = nn.Parameter(left(dimension, outputs // dimension, rank) * rank**-0.5)
        self.right = nn.Parameter(torch.randn(dimension, rank, inputs // dimension) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return nn.functional.linear(x, kronecker_sum(shared, self.left, self.right), self.bias)


def kronecker_sum(shared: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_i A_i kron (s_i t_i), shape (outputs, inputs).

    Shapes: A (n, n, n), s (n, outputs / n, r), t (n, r, inputs / n).
    """
    blocks = torch.einsum("iab,icr,ird->acbd", shared, left, right)
    return blocks.flatten(2).flatten(0, 1)
