"""What a person sees while PPO runs: one live line, or plain lines where there is no terminal."""

import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ftune.report.measures import duration

SECONDS_BETWEEN_LINES = 5.0


class IterationProgress:
    """The line of a run of `total` iterations; a context manager."""

    def __init__(self, console: Console, total: int, first: int) -> None:
        self.console, self.total, self.done = console, total, first
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[facts]}"),
            console=console,
        )
        self.rates: list[float] = []
        self.last_line = -math.inf

    def __enter__(self) -> "IterationProgress":
        if self.console.is_terminal:
            self.task = self.bar.add_task("iterations", total=self.total, completed=self.done, facts="")
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def advance(self, iteration: int, seconds: float, line: str) -> None:
        """Iteration number `iteration` (from 1) took `seconds`; `line` tells how it went."""
        self.rates.append(seconds)
        recent = sorted(self.rates[-20:])
        line = f"{line}  {duration(recent[len(recent) // 2] * (self.total - iteration))} left"
        if self.console.is_terminal:
            self.bar.update(self.task, completed=iteration, facts=line)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES or iteration == self.total:
            self.last_line = time.monotonic()
            self.console.print(f"iteration {iteration}/{self.total}  {line}", soft_wrap=True, highlight=False)
