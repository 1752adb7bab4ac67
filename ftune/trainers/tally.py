"""Means of what steps bring, whose sums are read together with a step's other numbers."""

from collections.abc import Callable
from typing import Any

import torch

from ftune.trainers.feeding import FastTrainer


class Tally:
    """Sums and counts by name. A device is not waited for: the trainer reads the sums of a step when it reads its loss.

    By then the next step may already add its own.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._step: list[tuple[str, torch.Tensor, int]] = []
        self._left: list[tuple[str, int]] = []
        self._read: list[float] = []

    def add(self, **values: torch.Tensor) -> None:
        """Add all elements of each tensor to the mean of its name, once the step is known to count."""
        self._step += [(name, value.detach().float().sum(), value.numel()) for name, value in values.items()]

    def unread(self) -> list[torch.Tensor | float]:
        """The sums of the step, whose micro-batches are through."""
        sums: list[torch.Tensor | float] = [total for _, total, _ in self._step]
        self._left = [(name, count) for name, _, count in self._step]
        self._step = []
        return sums

    def read(self, values: list[float]) -> None:
        """What these were."""
        self._read = values

    def end_step(self, *, counts: bool) -> None:
        """Take over what has been read, or forget it."""
        for (name, count), total in zip(self._left, self._read, strict=True) if counts else ():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + count
        self._left, self._read = [], []

    def means(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda value: value) -> dict[str, float]:
        """The means since they were last read; `reduce` sums over processes, which must have added the same names."""
        means = {}
        for name in sorted(self._sums):
            both = torch.tensor([self._sums[name], self._counts[name]], dtype=torch.float64)
            total, count = reduce(both).tolist()
            means[name] = total / count
        self._sums, self._counts = {}, {}
        return means


class TalliedTrainer(FastTrainer):
    """Tells the means of what the micro-batches of steps have added to its `tally`."""

    tally: Tally

    def unread(self) -> list[Any]:
        """The sums of the step."""
        return self.tally.unread()

    def read(self, values: list[float]) -> None:
        """Keep them until it is known whether the step counts."""
        self.tally.read(values)

    def end_step(self, *, counts: bool) -> None:
        """Count them, or forget them."""
        self.tally.end_step(counts=counts)
