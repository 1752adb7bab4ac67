"""Numbers that a device has computed, brought to the CPU together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def numbers(values: Sequence[Tensor | float]) -> list[float]:
    """All of `values`, tensors of one element among them, for which a GPU is waited for once."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return [float(value) for value in values]
    device = max((value.device for value in tensors), key=lambda device: device.type != "cpu")
    together = [value.detach().to(device, torch.float64, non_blocking=True).reshape(()) for value in tensors]
    read = iter(torch.stack(together).tolist())
    return [next(read) if isinstance(value, Tensor) else float(value) for value in values]
