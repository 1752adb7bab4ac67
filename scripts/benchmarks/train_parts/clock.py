"""Time and tokens of each step, and what they make: the same for every way to train."""

import resource
import statistics
import time
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from train_parts.work import Job, Result


class Clock:
    """Steps as they pass. A step is over when the GPU has done it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self._count = 0
        self.begin()

    def begin(self) -> None:
        """The first step begins."""
        self._mark, self._cpu_mark = self._now(), time.process_time()

    def saw(self, tokens: int) -> None:
        """A micro-batch with so many tokens that are no padding."""
        self._count += tokens

    def step(self) -> None:
        """A step is over, and the next one begins."""
        wall, cpu = self._now(), time.process_time()
        self.wall.append(wall - self._mark)
        self.cpu.append(cpu - self._cpu_mark)
        self.tokens.append(self._count)
        self._mark, self._cpu_mark, self._count = wall, cpu, 0

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def result(self) -> Result:
        """Mean tokens in the median time of the timed steps."""
        timed = slice(self.job.untimed, None)
        tokens = statistics.mean(self.tokens[timed])  # batches are made ahead of the step that they are for
        on_gpu = torch.cuda.is_available()
        return {
            "setting": self.job.setting.name,
            "way": self.job.way,
            "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
            "tokens_per_s": round(tokens / statistics.median(self.wall[timed]), 1),
            "tokens_per_cpu_s": round(tokens / statistics.median(self.cpu[timed]), 1),
            "steps": len(self.wall[timed]),
            "tokens_of_a_step": round(tokens),
            "first_step_s": round(self.wall[0], 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)
            if on_gpu
            else round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "losses": [round(loss, 4) for loss in self.losses[:4]],
        }


class Steps(TrainerCallback):
    """Tells the clock of the steps of transformers' Trainer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The clock starts."""
        self.clock.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step is over."""
        self.clock.step()

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Losses, to be compared."""
        if logs and "loss" in logs:
            self.clock.losses.append(logs["loss"])


def watch_every_trainer(clock: Clock) -> None:
    """Put the clock into each Trainer that is made from now on, also one that a command makes by itself."""
    plain = CallbackHandler.__init__

    def with_clock(self: Any, callbacks: list[Any], *args: Any, **kwargs: Any) -> None:
        plain(self, [*callbacks, Steps(clock)], *args, **kwargs)

    CallbackHandler.__init__ = with_clock
