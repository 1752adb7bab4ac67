"""One source after another."""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ftune.data.mixing.base import Mix, Sources, T, one_after_another, whole_and_part

if TYPE_CHECKING:
    from ftune.data.mixing.base import Order


class Concatenate(Mix):
    """All rows of all sources, each as often as its source's weight says: 2 is twice, 0.5 a draw of half of them."""

    type: Literal["concatenate"] = "concatenate"

    def order(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> "Order":
        """Source after source."""
        from numpy.random import default_rng

        rng = default_rng(seed)
        return one_after_another(
            [whole_and_part(size, weight, rng) for size, weight in zip(sizes, weights, strict=True)]
        )

    def stream(self, sources: Sources[T], weights: Sequence[float], seed: int) -> Iterator[tuple[int, T]]:
        """Source after source; of a weight's fraction each row comes with that probability."""
        rng = random.Random(seed)  # noqa: S311 - a seeded draw, no secret
        for number, (open_source, weight) in enumerate(zip(sources, weights, strict=True)):
            whole, part = divmod(weight, 1.0)
            for _ in range(int(whole)):
                yield from ((number, row) for row in open_source())
            if part:
                yield from ((number, row) for row in open_source() if rng.random() < part)
