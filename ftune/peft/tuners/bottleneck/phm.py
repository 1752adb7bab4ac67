"""Compacter's linear layers (arXiv:2106.04647): weights as sums of Kronecker products."""
# ruff: noqa: TID253 - a tuner is only imported where peft is

import torch
from torch import Tensor, nn


def shared_factors(dimension: int) -> nn.Parameter:
    """The n matrices A_i, shape (n, n, n), that all projections of all layers share."""
    return nn.Parameter(torch.randn(dimension, dimension, dimension) * dimension**-0.5)


class KroneckerLinear(nn.Module):
    """W = sum_i A_i kron B_i with B_i = s_i t_i of rank r (equations 3 and 5); n (r (k + d)) / n + d own parameters.

    n divides both sizes. At the start W keeps the size of its input, or is zero.
    """

    def __init__(self, inputs: int, outputs: int, dimension: int, rank: int, *, zero: bool) -> None:
        super().__init__()
        left = torch.zeros if zero else torch.randn
        self.left = nn.Parameter(left(dimension, outputs // dimension, rank) * rank**-0.5)
        self.right = nn.Parameter(torch.randn(dimension, rank, inputs // dimension) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self, shared: Tensor) -> Tensor:
        """W from the shared factors: (outputs, inputs)."""
        blocks = torch.einsum("iab,icr,ird->acbd", shared, self.left, self.right)
        return blocks.reshape(self.bias.numel(), -1)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return nn.functional.linear(x, self.weight(shared), self.bias)
