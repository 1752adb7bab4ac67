"""Ctrl-C and SIGTERM: the first one finishes the step and saves, the second one ends at once."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftune.core.signals import StopSignal


class StopAtStepEnd(StopSignal, TrainerCallback):
    """Saves and stops at the end of the step in which a signal came."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask the trainer to save and stop, without the evaluation that may be due."""
        if self.received is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
        return control
