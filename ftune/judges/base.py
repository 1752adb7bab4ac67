"""What every judge provides: which of two answers is the better one, pair by pair."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ftune.core.section import Section
from ftune.data.example import Conversation
from ftune.rewards.base import Surroundings


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt. Which system wrote which, a judge is not told."""

    prompt: Conversation | str
    """The conversation so far, without the answers; or raw text."""
    first: str
    second: str
    reference: str | None = None
    """The row's own answer, where it has one."""
    origin: str = ""
    """`file:line` of the prompt's row."""


Verdict: TypeAlias = Literal["first", "second", "tie", "inconsistent"] | None
"""The better answer. `inconsistent`: asked in both orders, the judge said two different things, which counts as a tie.
None: no usable answer; it counts as missing and is never guessed."""

Progress: TypeAlias = Callable[[int], None]


def unheard(_: int) -> None:
    """Where nobody looks."""


class Ask(Protocol):
    """An open judge."""

    def __call__(self, pairs: Sequence[Pair], progress: Progress = unheard) -> list[Verdict]:
        """One verdict a pair, in order; that of a pair does not depend on the others.

        `progress` is called with the number of pairs judged so far, from the thread that asks. Answers that are the
        same text are a tie, and nobody is asked about them.
        """
        ...


class Judge(Section):
    """A judge: its fields are its recipe keys, `open` makes it ready.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit. A judge
    that is shown both answers is asked in both orders (`ftune.judges.orders`).
    """

    @abstractmethod
    def open(self, around: Surroundings) -> Ask:
        """The judge at work. Of what is around, it uses device, dtype, micro_batch_size and remark.

        Raises ModelError and LaunchError for what is wrong with it and can be known before the first question.
        """
