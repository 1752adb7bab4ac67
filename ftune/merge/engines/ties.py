"""The tensor code of TIES (arXiv:2306.01708)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ftune.merge.engines.combined import in_pieces, weighted_sum


def ties(updates: Sequence[Tensor], weights: Sequence[float], density: float, scale: float) -> Tensor:
    """Trim, elect signs, average what agrees; beside the result, one copy of one update at a time."""
    limits = [smallest_kept(update, density) for update in updates]
    merged = torch.empty_like(updates[0], memory_format=torch.contiguous_format)
    for out, *pieces in in_pieces(merged, *updates):
        trimmed = [piece * (piece.abs() >= limit) for piece, limit in zip(pieces, limits, strict=True)]
        out.copy_(disjoint_mean(trimmed, weights)).mul_(scale)
    return merged


def smallest_kept(update: Tensor, density: float) -> float:
    """The smallest magnitude among the largest `density` of all magnitudes, at least one; values equal to it stay."""
    dropped = update.numel() - max(1, round(density * update.numel()))
    if not dropped:
        return 0.0
    magnitudes = update.abs().flatten().cpu().numpy()
    magnitudes.partition(dropped)  # torch.kthvalue (2.13, CPU) takes seven times as long and three times the memory
    return float(magnitudes[dropped])


def disjoint_mean(updates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """In each place the weighted mean of the updates with the sign of the weighted sum; 0 where none has it."""
    elected = weighted_sum(updates, weights).sign_()
    total, share = torch.zeros_like(elected), torch.zeros_like(elected)
    for update, weight in zip(updates, weights, strict=True):
        agreeing = (update * weight).mul_(elected).clamp_(min=0)  # magnitudes; 0 where the sign is another one
        total += agreeing
        share.add_(agreeing.sign_(), alpha=abs(weight))
    return elected.mul_(total).div_(share.clamp_(min=torch.finfo(share.dtype).tiny))  # 0 where none agrees
