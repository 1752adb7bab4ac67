"""What a chat template writes around each turn, read off conversations of marker words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from ftune.core.errors import DataError

Render: TypeAlias = Callable[[Sequence[tuple[str, str]], bool], str]
"""A template at work: turns of role and text, and whether the generation prompt follows. DataError where it refuses."""

THREE_QUESTIONS = ("user", "assistant", "user", "assistant", "user")


class IrregularError(Exception):
    """The template does more than to write fixed texts around the turns; the text says what."""


@dataclass(frozen=True, slots=True)
class System:
    """Where a system prompt goes."""

    place: str
    """`head`: before the first turn. `first` or `last`: within that question, before its text."""
    open: str
    close: str
    otherwise: str = ""
    """What stands at the head without a system prompt."""
    default: str | None = None
    """The system prompt of conversations that have none; the head is then always written, so it can be empty."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A chat template as texts around the turns."""

    head: str
    """Before everything, where no system prompt has its place there."""
    system: System | None
    """None where the template has no place for a system prompt."""
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    """Between an answer and the next turn."""
    generation: str
    """After the last question, for the answer to come."""


def read_turns(render: Render) -> Turns:
    """The texts around the turns. Raises IrregularError where turns of one role are not all written alike."""
    _, gaps = _gaps(render, THREE_QUESTIONS, generation=True)
    start, to_answer, to_question, to_answer_again, to_question_again, end = gaps
    if (to_answer, to_question) != (to_answer_again, to_question_again):
        raise IrregularError("it does not write all turns alike")
    user_close = _gaps(render, ("user",), generation=False)[1][-1]
    if not (to_answer.startswith(user_close) and end.startswith(user_close)):
        user_close = _shared(to_answer, end)
    answer_end = _gaps(render, ("user", "assistant"), generation=False)[1][-1]
    user_open = to_question.removeprefix(answer_end)
    if not start.endswith(user_open):  # such as a BOS before each question, which the tokenizer has put before this one
        user_open = _shared(user_open[::-1], start[::-1])[::-1]
    head = start.removesuffix(user_open)
    system = _system(render, gaps, head, user_open)
    return Turns(
        head="" if system and system.place == "head" else head,
        system=system,
        user_open=user_open,
        user_close=user_close,
        assistant_open=to_answer.removeprefix(user_close),
        assistant_close=to_question.removesuffix(user_open) if user_open else to_question,
        generation=end.removeprefix(user_close),
    )


def _system(render: Render, without: list[str], head: str, user_open: str) -> System | None:
    try:
        order, gaps = _gaps(render, ("system", *THREE_QUESTIONS), generation=True)
    except DataError:
        return None
    if 0 not in order:
        if gaps != without:
            raise IrregularError("it answers to a system prompt that it does not write")
        return None
    place = order.index(0)
    opening, closing = gaps[place], gaps[place + 1]
    others = [*gaps[:place], *gaps[place + 2 :]]
    expected = [*without[:place], *without[place + 1 :]]
    if others != expected or place not in {0, len(THREE_QUESTIONS) - 1}:
        raise IrregularError("a system prompt changes how it writes the turns")
    if place == 0 and closing.endswith(user_open):
        return _own_turn(opening, closing[: len(closing) - len(user_open)], head)
    if not opening.startswith(without[place]):
        raise IrregularError("it writes the question of a system prompt in a way of its own")
    return System("last" if place else "first", opening.removeprefix(without[place]), closing)


def _own_turn(opening: str, closing: str, head: str) -> System:
    """A system prompt before the first turn, where `head` stands without one."""
    length = len(opening) + len(closing)
    if len(head) >= max(length, 1) and head.startswith(opening) and head.endswith(closing) and closing:
        return System("head", opening, closing, default=head[len(opening) : len(head) - len(closing)])
    return System("head", opening, closing, otherwise=head)


def _gaps(render: Render, roles: Sequence[str], *, generation: bool) -> tuple[list[int], list[str]]:
    """The turns in the order in which they are written, and the texts before, between and after them."""
    markers = [f"qzx{role}{place}qzx" for place, role in enumerate(roles)]
    text = render(list(zip(roles, markers, strict=True)), generation)
    found = sorted((text.index(marker), place) for place, marker in enumerate(markers) if marker in text)
    order = [place for _, place in found]
    if any(text.count(marker) > 1 for marker in markers):
        raise IrregularError("it writes a turn twice")
    first = int(roles[0] == "system")
    if [place for place in order if place >= first] != list(range(first, len(roles))):
        raise IrregularError("it leaves turns out or writes them in another order")
    gaps, rest = [], text
    for place in order:
        gap, _, rest = rest.partition(markers[place])
        gaps.append(gap)
    return order, [*gaps, rest]


def _shared(one: str, other: str) -> str:
    """What both begin with."""
    return "".join(left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
