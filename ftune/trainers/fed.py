"""transformers' Trainer with the micro-batches of a step from a `StepFeed`."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import Trainer

from ftune.trainers.feed import Example
from ftune.trainers.regroup import Rows
from ftune.trainers.step_feed import Batch, StepFeed

NOTHING: Batch = {}
"""Stands in a step for a micro-batch whose rows are in another one."""


@dataclass(frozen=True, slots=True)
class Feeding:
    """What keeps a device busy: how a step gets its micro-batches, and when its numbers are read."""

    capacity: int | None = None
    """Tokens that a micro-batch may be made of; None leaves them as the recipe cuts them."""
    ahead: bool = False
    """Whether a thread makes those of the next step while this one is computed."""

    late: bool = False
    """Whether a step's loss is read while the next one is computed; see `StepEndTrainer`."""

    def words(self) -> str:
        """One line for a person."""
        cut = "as the recipe cuts them" if self.capacity is None else f"cut anew, of {self.capacity:,} tokens at most"
        late = ", a step's numbers read during the next one" if self.late else ""
        return f"micro-batches {cut}" + (", made ahead" if self.ahead else "") + late


class FedTrainer(Trainer):
    """Trains on the batches of a feed, if it is told how to; otherwise on transformers' own.

    transformers counts micro-batches to know when a step ends, so a step has as many as it asks for. Those left empty
    come first: the last one is where processes exchange gradients.
    """

    feeding: Feeding | None = None
    _feed: StepFeed | None = None
    _thread: Executor | None = None
    _filled = 0
    """Micro-batches of this step that have rows."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's; the thread ends with it."""
        with self._reading_ahead() as self._thread:
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """Upstream's, whose batches are not collated yet where a feed does it."""
        loader = super().get_train_dataloader()
        if self.feeding is not None:
            self._collate = loader.collate_fn
            loader.base_dataloader.collate_fn = Rows
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step on the device, and what its loss is divided by."""
        if self.feeding is None:
            samples: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
            return samples
        if self._feed is None:
            self._feed = StepFeed(epoch_iterator, self._pinned, self.feeding.capacity, self._thread)
        step = self._feed.take(num_batches)
        batches = [
            {name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value for name, value in one}
            for one in (batch.items() for batch in step.batches)
        ]
        self._filled = len(batches)
        empty = [NOTHING] * (step.drawn - len(batches))
        return empty + batches, self._get_num_items_in_batch(batches, device)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Upstream's; nobody draws from its iterator behind it."""
        try:
            super()._run_epoch(*args, **kwargs)
        finally:
            if self._feed is not None:
                self._feed.close()
                self._feed = None

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch; an empty one is a loss of 0."""
        if not inputs:
            return torch.zeros((), device=self._tr_loss.device)
        if self.feeding is not None:  # what a step has once is shared among those with rows
            self.current_gradient_accumulation_steps = self._filled
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _reading_ahead(self) -> AbstractContextManager[Executor | None]:
        if self.feeding is None or not self.feeding.ahead:
            return nullcontext()
        device = self.args.device
        choose = partial(torch.cuda.set_device, device) if device.type == "cuda" else None  # each thread has its own
        return ThreadPoolExecutor(1, "batches", initializer=choose)

    def _pinned(self, examples: list[Example]) -> Batch:
        """A batch from which a GPU can copy by itself."""
        batch: Batch = self._collate(examples)
        if self.args.device.type != "cuda":
            return batch
        return {name: value.pin_memory() if torch.is_tensor(value) else value for name, value in batch.items()}
