"""Means of what steps bring, added up on the device and read when they are logged."""

import torch


class Tally:
    """Sums and counts by name; reading them is the only time that the device is waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: torch.Tensor) -> None:
        """Add all elements of each tensor to the mean of its name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float().sum()
            self._counts[name] = self._counts.get(name, 0) + value.numel()

    def means(self) -> dict[str, float]:
        """The means since they were last read."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
