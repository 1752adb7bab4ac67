"""Time and tokens of each step, and what they make: the same for every way to train."""

import resource
import statistics
import time
from collections import deque
from itertools import pairwise
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from train_parts.work import Job, Result


class Clock:
    """Steps as they pass; on a GPU, as it is done with them, which nothing waits for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self._count = 0
        self.begin()

    def begin(self) -> None:
        """The first step begins."""
        self._walls, self._cpus = [self._now()], [time.process_time()]

    def saw(self, tokens: int) -> None:
        """A micro-batch of this step has so many tokens that are no padding."""
        self._count += tokens

    def step(self) -> bool:
        """A step is over, and the next one begins; whether it was the last."""
        self._walls.append(self._now())
        self._cpus.append(time.process_time())
        self.tokens.append(self._count)
        self._count = 0
        return len(self.tokens) >= self.job.steps

    def _now(self) -> Any:
        if not torch.cuda.is_available():
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _steps_s(self) -> list[float]:
        if not torch.cuda.is_available():
            return [after - before for before, after in pairwise(self._walls)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self._walls)]

    def result(self) -> Result:
        """Mean tokens in the median time of the timed steps."""
        timed = slice(self.job.untimed, None)
        wall, cpu = self._steps_s(), [after - before for before, after in pairwise(self._cpus)]
        tokens = statistics.mean(self.tokens[timed])
        on_gpu = torch.cuda.is_available()
        return {
            "setting": self.job.setting.name,
            "way": self.job.way,
            "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
            "tokens_per_s": round(tokens / statistics.median(wall[timed]), 1),
            "tokens_per_cpu_s": round(tokens / statistics.median(cpu[timed]), 1),
            "steps": len(wall[timed]),
            "tokens_of_a_step": round(tokens),
            "first_step_s": round(wall[0], 2),
            "steps_ms": [round(1000 * seconds, 1) for seconds in wall],
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)
            if on_gpu
            else round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "losses": [round(loss, 4) for loss in self.losses[:4]],
        }


class Made:
    """Tokens of micro-batches between where these are made, which may be steps ahead, and where they are computed."""

    def __init__(self, trainer: Any, clock: Clock) -> None:
        """Tells the clock of a micro-batch when the trainer computes it."""
        self._tokens: deque[int] = deque()
        compute = trainer.training_step

        def computing(*args: Any, **kwargs: Any) -> Any:
            clock.saw(self._tokens.popleft())
            return compute(*args, **kwargs)

        trainer.training_step = computing

    def saw(self, tokens: int) -> None:
        """The next micro-batch that was made has so many."""
        self._tokens.append(tokens)


class Steps(TrainerCallback):
    """Tells the clock of the steps of transformers' Trainer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The clock starts."""
        self.clock.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is over; the run ends with the last one that is asked for, however long it is."""
        if self.clock.step():
            control.should_training_stop = True

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
