"""Where a step's rows are cut into micro-batches: into as few as there is memory for, and about equal.

A flat batch has no padding, and its loss is a sum over tokens that the step's count divides. So all cuts give the same
gradient, and a GPU is the faster the more tokens it gets at once.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftune.trainers.feed import Example


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples that are not collated yet. No list: libraries would look for tensors among its tokens."""

    examples: list[Example]

    @property
    def tokens(self) -> int:
        """Of all of them."""
        return sum(len(example["input_ids"]) for example in self.examples)


def regrouped(drawn: Sequence[Rows], capacity: int) -> list[list[Example]]:
    """The examples of `drawn` in their order, in the fewest groups of at most `capacity` tokens, the largest smallest.

    A micro-batch that was drawn larger than that is taken as proof that there is more room; so the groups are never
    more than there were.
    """
    examples = [example for rows in drawn for example in rows.examples]
    tokens = [len(example["input_ids"]) for example in examples]
    room = max(capacity, *(rows.tokens for rows in drawn))
    fewest = len(_filled(tokens, room))
    sizes = range(max(tokens), room)
    even = max(tokens) + bisect_left(sizes, True, key=lambda size: len(_filled(tokens, size)) <= fewest)
    ends = _filled(tokens, even)
    return [examples[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _filled(tokens: Iterable[int], capacity: int) -> list[int]:
    """Where each group ends that is filled until the next row would be too much."""
    ends, held, number = list[int](), 0, 0
    for number, more in enumerate(tokens):
        if held + more > capacity:
            ends.append(number)
            held = 0
        held += more
    return [*ends, number + 1]
