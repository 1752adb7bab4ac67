"""The micro-batches of one step after another, made while the step before is computed."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from ftune.trainers.feed import Example
from ftune.trainers.regroup import Rows, regrouped

Batch = dict[str, Any]


class Step(NamedTuple):
    """The rows of a step."""

    batches: list[Batch]
    drawn: int
    """From so many micro-batches of the loader."""


@dataclass(slots=True)
class StepFeed:
    """Steps out of what a loader gives in an epoch.

    One step is made ahead, never more: a queue of one, and no thread is ever left waiting at it.
    """

    source: Iterator[Rows]
    collate: Callable[[list[Example]], Batch]
    capacity: int | None = None
    """Tokens that a micro-batch may be made of; None leaves micro-batches as they were drawn."""
    ahead: Executor | None = None
    """The thread that makes the next step; None: it is made when it is asked for."""
    _next: Future[Step] | None = None

    def take(self, count: int) -> Step:
        """The next step, of `count` micro-batches as the loader has them; fewer at the end of the epoch.

        Raises what drawing and collating raise, wherever that was done.
        """
        # The first step is drawn here: a loader that is opened may draw a seed, when this thread is to draw it.
        step = self._next.result() if self._next else self._made(count)
        self._next = self.ahead.submit(self._made, count) if self.ahead else None
        return step

    def close(self) -> None:
        """Return when nothing is drawn any more; what has been made for the next step is dropped."""
        if self._next is not None:
            wait([self._next])

    def _made(self, count: int) -> Step:
        drawn = list(islice(self.source, count))
        if self.capacity is None or not drawn:
            groups = [rows.examples for rows in drawn]
        else:
            groups = regrouped(drawn, self.capacity)
        return Step([self.collate(examples) for examples in groups], len(drawn))
