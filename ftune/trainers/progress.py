"""What a person sees while a model trains, and the step events behind it."""

import math
import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftune.core.say import Say
from ftune.report.events import EventLog
from ftune.report.measures import duration, peak_memory_gib
from ftune.trainers.moment import Moment
from ftune.trainers.reliable import ReliableTrainer
from ftune.trainers.step_end import Counts

SECONDS_BETWEEN_LINES = 5.0

Utilisation = Callable[[int, int, int, float], float | None]
"""The share of the GPUs' peak that steps have reached: of their rows' tokens, the sum of the rows' squared lengths, the
trained tokens, and seconds. None where nobody knows the peak."""


class ProgressCallback(TrainerCallback):
    """Turns the trainer's logs into events and into one live line, or plain lines where there is no terminal."""

    def __init__(self, trainer: ReliableTrainer, events: EventLog, say: Say, mfu: Utilisation) -> None:
        self.trainer, self.events, self.say, self.console, self.mfu = trainer, events, say, say.console, mfu
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[facts]}"),
            console=self.console,
        )
        self.last_line = -math.inf
        self.busy_s = 0.0
        self.seen = Counts()
        self.rates: list[float] = []
        self.begin = self.end = self._now()  # a run that was killed behind its last step only evaluates
        self.passed = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the live line."""
        self._restart()
        if self.console.is_terminal:
            self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step, facts="")
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember when it was; evaluations and saves are in no step's time. The last step is told, due or not."""
        control.should_log |= state.global_step >= state.max_steps
        self.end = self._now()
        now = time.monotonic()
        self.rates.append(now - self.passed)
        self.passed = now

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Restart the clocks."""
        self._worked()
        self._restart()

    on_save = on_evaluate

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a `step` or `eval` event and show it."""
        logs = logs or {}
        if "eval_loss" in logs:
            facts = self.trainer.evaluation
            self.events.write("eval", step=state.global_step, **facts)
            self.say.line(f"step {state.global_step}: {self.trainer.held_out_words(facts)}")
        elif "loss" in logs:
            self._step(state, logs)

    def _now(self) -> Moment:
        return Moment(self.trainer.args.device.type if self.trainer.late else "cpu")

    def _restart(self) -> None:
        self.begin = self.end = self._now()
        self.passed = time.monotonic()

    def _worked(self) -> None:
        """Count the time from the step that was counted last to the one that has ended."""
        self.busy_s += self.begin.seconds_to(self.end)
        self.begin = self.end

    def _step(self, state: TrainerState, logs: dict[str, float]) -> None:
        self._worked()
        here = [after - before for after, before in zip(self.trainer.counts, self.seen, strict=True)]
        self.seen = self.trainer.counts
        tokens, trained, squares = self.trainer.ranks.sums(here)
        rate = tokens / self.busy_s if self.busy_s else 0.0
        mfu = self.mfu(tokens, squares, trained, self.busy_s)
        self.busy_s = 0.0
        facts = {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            "loss": logs["loss"],
            **self.trainer.step_facts(logs, trained),
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": tokens,
            "tokens_per_s": round(rate, 1),
            "mfu": mfu and round(mfu, 4),
            "memory_gib": round(max(self.trainer.ranks.gather(peak_memory_gib())), 3),
        }
        self.events.write("step", **facts)
        line = (
            f"loss {facts['loss']:.4f}{_judged(facts)}  {rate:,.0f} tok/s{_used(mfu)}  "
            f"{facts['memory_gib']:.1f} GiB  "
            f"{duration(self._left_s(state))} left"
        )
        if self.console.is_terminal:
            self.bar.update(self.task, completed=state.global_step, facts=line)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES or state.global_step == state.max_steps:
            self.last_line = time.monotonic()
            self.say.line(f"step {state.global_step}/{state.max_steps}  {line}")

    def _left_s(self, state: TrainerState) -> float:
        """Time left, from the median of the last steps."""
        recent = sorted(self.rates[-50:])
        return recent[len(recent) // 2] * (state.max_steps - state.global_step) if recent else 0.0

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.console.is_terminal:
            self.bar.stop()


def _used(mfu: float | None) -> str:
    return "" if mfu is None else f"  MFU {mfu:.0%}"


def _judged(facts: dict[str, Any]) -> str:
    """How many verdicts were met, where it is verdicts that are trained on."""
    words = f"  accuracy {facts['accuracy']:.0%}" if facts.get("accuracy") is not None else ""
    return words + (f"  margin {facts['margin']:.2f}" if facts.get("margin") is not None else "")
