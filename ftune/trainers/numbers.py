"""Numbers that a device computes, brought to the CPU together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reading:
    """Numbers on their way."""

    values: Sequence[Tensor | float]
    together: Tensor | None
    """Those of them that are tensors, in their order, on the CPU; None where there are none."""
    arrived: "torch.cuda.Event | None" = None
    """When they are there; None: they are."""

    def result(self) -> list[float]:
        """All of them, for which it waits."""
        if self.arrived is not None:
            self.arrived.synchronize()
        read = iter([] if self.together is None else self.together.tolist())
        return [next(read) if isinstance(value, Tensor) else float(value) for value in self.values]


def reading(values: Sequence[Tensor | float]) -> Reading:
    """All of `values`, tensors of one element among them; a GPU is not waited for before they are asked for."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return Reading(values, None)
    device = max((value.device for value in tensors), key=lambda device: device.type != "cpu")
    together = torch.stack(
        [value.detach().to(device, torch.float64, non_blocking=True).reshape(()) for value in tensors]
    )
    if device.type != "cuda":
        return Reading(values, together.cpu())
    on_cpu = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
    on_cpu.copy_(together, non_blocking=True)
    arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(device))
    return Reading(values, on_cpu, arrived)
