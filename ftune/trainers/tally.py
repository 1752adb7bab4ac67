"""Means of what steps bring, added up on the device and read when they are logged."""

from collections.abc import Callable, Iterable

import torch


class Tally:
    """Sums and counts by name; reading them is the only time that the device is waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._step: list[tuple[str, torch.Tensor, int]] = []

    def add(self, **values: torch.Tensor) -> None:
        """Add all elements of each tensor to the mean of its name, once the step is known to count."""
        self._step += [(name, value.detach().float().sum(), value.numel()) for name, value in values.items()]

    def end_step(self, *, counts: bool) -> None:
        """Take over what the step's micro-batches brought, or forget it."""
        step: Iterable[tuple[str, torch.Tensor, int]] = self._step if counts else ()
        for name, total, count in step:
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + count
        self._step = []

    def means(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda value: value) -> dict[str, float]:
        """The means since they were last read; `reduce` sums over processes, which must have added the same names."""
        means = {}
        for name in sorted(self._sums):
            total = torch.stack([self._sums[name].double(), self._sums[name].new_tensor(self._counts[name]).double()])
            value, count = reduce(total).tolist()
            means[name] = value / count
        self._sums, self._counts = {}, {}
        return means
