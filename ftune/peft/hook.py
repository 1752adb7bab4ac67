"""What a method does during training beside the optimiser's steps."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class TrainingHook(ABC):
    """Called by the trainer around each step; its state travels with the checkpoints."""

    @abstractmethod
    def begin(self, steps: int) -> None:
        """Before the first step (or the first after a resume): the run has this many optimiser steps.

        Raises RecipeError when the method's schedule does not fit into them.
        """

    @abstractmethod
    def regulariser(self) -> "Tensor | None":
        """A scalar that is added to the loss of each micro-batch."""

    @abstractmethod
    def after_step(self, step: int) -> dict[str, object]:
        """After optimiser step `step` (from 1), gradients still there; facts for the event log, or nothing."""

    @abstractmethod
    def state(self) -> "dict[str, Tensor]":
        """What a resumed run needs beside the trainable parameters."""

    @abstractmethod
    def restore(self, state: "dict[str, Tensor]") -> None:
        """Go on from a `state()`."""
