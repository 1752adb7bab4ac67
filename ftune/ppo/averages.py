"""Means over all ranks, taken with one exchange: each is a sum and a count until it is read."""

import torch

from ftune.rl.moments import Reduce


class Averages:
    """Named sums and counts on one device; nothing waits for the device before `reduced`."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, total: torch.Tensor | float, count: torch.Tensor | float = 1.0) -> None:
        """Add to the sum and to the count of a mean."""
        pair = torch.stack(
            [torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in (total, count)]
        )
        self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair

    def reduced(self, reduce: Reduce) -> dict[str, float]:
        """The means over all ranks, which must have added the same names; a mean of nothing is left out."""
        if not self._sums:
            return {}
        pairs = reduce(torch.stack([self._sums[name] for name in sorted(self._sums)])).tolist()
        return {name: total / count for name, (total, count) in zip(sorted(self._sums), pairs, strict=True) if count}
