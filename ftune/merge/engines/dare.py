"""The tensor code of DARE (arXiv:2311.03099)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ftune.merge.engines.combined import in_pieces, weighted_sum
from ftune.merge.engines.ties import disjoint_mean


def dare_linear(updates: Sequence[Tensor], weights: Sequence[float], density: float, generator: Generator) -> Tensor:
    """The weighted sum of the thinned updates."""
    merged = torch.empty_like(updates[0], memory_format=torch.contiguous_format)
    for out, *pieces in in_pieces(merged, *updates):
        out.copy_(weighted_sum([thinned(piece, density, generator) for piece in pieces], weights))
    return merged


def dare_ties(
    updates: Sequence[Tensor], weights: Sequence[float], density: float, scale: float, generator: Generator
) -> Tensor:
    """The disjoint mean of the thinned updates."""
    merged = torch.empty_like(updates[0], memory_format=torch.contiguous_format)
    for out, *pieces in in_pieces(merged, *updates):
        out.copy_(disjoint_mean([thinned(piece, density, generator) for piece in pieces], weights)).mul_(scale)
    return merged


def thinned(update: Tensor, density: float, generator: Generator) -> Tensor:
    """Each value kept with probability `density` and divided by it, else 0."""
    drawn = torch.rand(update.shape, generator=generator, device=generator.device)  # the same whatever holds the update
    return (update * (drawn < density).to(update.device)).div_(density)
