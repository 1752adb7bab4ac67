"""Moments between which time is measured: on the CPU's clock, or in what a GPU has to do."""

import time
from typing import Any

import torch


class Moment:
    """Now; on a GPU, when it has done what it has been given so far, which nothing waits for."""

    def __init__(self, device: str) -> None:
        """`device` is a type, as "cuda"."""
        self._clock = time.monotonic()
        self._event: Any = None
        if device == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def seconds_to(self, later: "Moment") -> float:
        """Between two moments of one kind; waits until the later one has come."""
        if self._event is None:
            return later._clock - self._clock
        later._event.synchronize()
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1000
