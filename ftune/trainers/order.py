"""The order of the training rows: drawn anew for every epoch, the same for any number of processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochOrder(Sampler[int]):
    """A permutation of all rows that follows from seed and epoch alone.

    Processes take turns in it by micro-batches, so a step has the same rows on one process as on many, and a run that
    is resumed on another number of them goes on where it stood.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """To be called before an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        """All row indexes once."""
        yield from np.random.default_rng([self.seed, self.epoch]).permutation(self.rows).tolist()


class TellEpoch(TrainerCallback):
    """Tells the order which epoch begins.

    accelerate 1.15 passes it on to a sampler, but not through the batches that a resumed run skips on many processes.
    """

    def __init__(self, order: EpochOrder) -> None:
        self.order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.epoch` is a whole number, or in a resumed run what is done of it too."""
        self.order.set_epoch(int(state.epoch or 0))
