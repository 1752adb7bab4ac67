"""The nearest matrix of a low rank."""

import torch
from torch import Tensor

COLUMNS = 1024
"""Columns that are held in fp64 at once."""


def truncated(update: Tensor, rank: int) -> Tensor:
    """The nearest tensor to `update` of a rank, as a matrix [out, everything else]; vectors stay as they are.

    The projection U_r U_r^T D onto the leading left singular vectors is the truncated SVD (Eckart and Young, 1936).
    They are eigenvectors of D D^T, taken over the shorter side and summed in fp64, as squaring costs half of the
    digits. That spares the SVD its third factor, which has the size of the whole update.
    """
    if update.dim() < 2 or rank >= min(update.flatten(1).shape):
        return update
    matrix = update.flatten(1)
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    gram = torch.zeros(len(wide), len(wide), dtype=torch.float64, device=wide.device)
    for columns in torch.split(wide, COLUMNS, dim=1):
        exact = columns.double()
        gram.addmm_(exact, exact.T)
    leading = torch.linalg.eigh(gram).eigenvectors[:, -rank:].to(wide.dtype)
    kept: Tensor = leading @ (leading.T @ wide)
    return (kept.T if tall else kept).reshape(update.shape).contiguous()
