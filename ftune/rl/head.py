"""What happens between the product with the output layer's weights and the softmax; N rows, V vocabulary."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Head(NamedTuple):
    """z = cap(product * scale) / temperature, with cap(x) = softcap * tanh(x / softcap), or x without a softcap.

    The cap is that of Gemma 2 (arXiv 2408.00118, section 2).
    """

    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0
    chunk_size: int = 2048
    """Rows whose logits exist at once."""

    @property
    def slope(self) -> float:
        """Of z by the product; where there is a cap, times `cap_slope`."""
        return self.scale / self.temperature

    def z(self, logits_NV: Tensor) -> Tensor:
        """What the softmax sees, in at least fp32; in place where the logits are."""
        z_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        if self.scale != 1:
            z_NV.mul_(self.scale)
        if self.softcap is not None:
            z_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1:
            z_NV.div_(self.temperature)
        return z_NV

    def cap_slope(self, z: Tensor) -> Tensor:
        """1 - tanh^2 of the capped logits that became `z`; 1 without a cap."""
        return 1 - (z * (self.temperature / (self.softcap or math.inf))).square()

    def chunks(self, rows: int) -> list[slice]:
        """All rows in turn; one empty chunk where there are none."""
        return [slice(start, start + self.chunk_size) for start in range(0, max(rows, 1), self.chunk_size)]


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Of the product with the weights: that of `hidden`, or of autocast where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def cast(gradient: Tensor | None, of: Tensor | None) -> Tensor | None:
    """A gradient in the dtype of what it is of."""
    return None if gradient is None or of is None else gradient.to(of.dtype)
