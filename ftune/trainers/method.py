"""What a PEFT method asks of a trainer."""

from collections.abc import Callable
from dataclasses import dataclass

from ftune.peft.hook import TrainingHook


@dataclass(frozen=True, slots=True)
class Method:
    """What a PEFT method wants of the trainer."""

    adapter: bool = False
    """Whether the result is an adapter: checkpoints then hold it beside the state, as peft writes it."""
    hook: TrainingHook | None = None
    learning_rate_factor: Callable[[str], float] = lambda parameter: 1.0
    """What the learning rate of a parameter, by its name, is multiplied by."""
