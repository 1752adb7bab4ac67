"""The processes of a run: what they agree on, and how an error of one of them ends all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ftune.core.errors import FtuneError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Ranks:
    """All processes, of which this is number `rank` of `count`."""

    def __init__(self, accelerator: "Accelerator") -> None:
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self._accelerator = accelerator

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        total: torch.Tensor = self._accelerator.reduce(value, reduction="sum")
        return total

    def all(self, flag: bool) -> bool:
        """Whether it is so on every rank; they wait for each other."""
        against = self.sum(torch.tensor(float(not flag), device=self._accelerator.device))
        return int(against) == 0

    @contextmanager
    def together(self, kind: type[FtuneError]) -> Iterator[None]:
        """End what is inside on all ranks or on none: where one fails, it raises its error and the others `kind`.

        Without this the others would wait for it in the next exchange. Inside, ranks must not exchange anything.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, it is raised again once the others know
            failure = error
        everywhere = self.all(failure is None)
        if failure is not None:
            raise failure
        if not everywhere:
            raise kind("another process of this run failed, and says why; this one ends with it")
