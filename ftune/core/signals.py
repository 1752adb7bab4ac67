"""Ctrl-C, SIGTERM and SIGUSR1: the first one lets the step end and be saved, a later one ends at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is what Slurm scripts ask for some time before a job's end."""

SAME_REQUEST_S = 1.0
"""Signals that come within this time of the first are one request: Slurm signals every process of a job, and a
launcher passes on to its processes what they have got already."""


class StopSignal:
    """Remembers that a signal came; whoever runs the steps looks at `received`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_at = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over the signals inside; the handler itself only sets a flag."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()
            with suppress(OSError):  # the terminal may be gone; the run is saved all the same
                os.write(2, b"\nstopping after this step; once more to stop at once\n")
        elif time.monotonic() > self._received_at + SAME_REQUEST_S:
            os._exit(128 + number)
