"""Signals in a trainer: the first one ends the step and saves, on all processes at the same step."""

import signal
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftune.backends.ranks import Ranks
from ftune.core.signals import SIGNALS, StopSignal


class StopAtStepEnd(StopSignal, TrainerCallback):
    """Saves and stops at the end of the step in which a signal came to any process.

    The processes agree after every step: a signal reaches them at different times, or only one of them.
    """

    def __init__(self, ranks: Ranks, moved: Callable[[], None]) -> None:
        """`moved` is called at the end of each step."""
        super().__init__()
        self.agreed: signal.Signals | None = None
        """What they stop for."""
        self._ranks, self._moved = ranks, moved

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask the trainer to save and stop, without the evaluation that may be due."""
        self._moved()
        received = self._ranks.sums([int(self.received == number) for number in SIGNALS])
        self.agreed = next((number for number, times in zip(SIGNALS, received, strict=True) if times), None)
        if self.agreed is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
        return control
