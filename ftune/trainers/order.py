"""The order of the training rows: drawn anew for every epoch, the same for any number of processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """A permutation of all rows that follows from seed and epoch alone.

    Processes take turns in it by micro-batches, so a step has the same rows on one process as on many, and a run that
    is resumed on another number of them goes on where it stood.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before it begins an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        """All row indexes once."""
        yield from np.random.default_rng([self.seed, self.epoch]).permutation(self.rows).tolist()
