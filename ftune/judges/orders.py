"""Every pair asked in both orders: a judge that prefers a place, and not an answer, decides nothing.

Models prefer the answer that they read first, or the one they read last ("position bias"; Zheng et al.,
arXiv:2306.05685, section 3.4, whose remedy this is): a win counts only where both orders name the same answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from ftune.judges.base import Pair, Progress, Verdict

Choice: TypeAlias = Literal["first", "second", "tie"] | None
"""What a judge says in one order: the better answer of the two as they were shown, None without a usable answer."""

AskOnce: TypeAlias = Callable[[Sequence[Pair], Progress], Sequence[Choice]]
"""One choice a pair, which is shown as it is; progress in pairs as they are shown."""

_TURNED: dict[Choice, Choice] = {"first": "second", "second": "first"}


def in_both_orders(pairs: Sequence[Pair], ask: AskOnce, progress: Progress) -> list[Verdict]:
    """The verdict on each pair, from what is said of it as it is and turned round.

    Both alike: that. Different: `inconsistent`. One of them without an answer: None.
    """
    places = [place for place, pair in enumerate(pairs) if pair.first != pair.second]
    alike = len(pairs) - len(places)
    shown = [each for place in places for each in (pairs[place], _turned(pairs[place]))]
    choices = ask(shown, lambda done: progress(alike + done // 2)) if shown else []
    verdicts: list[Verdict] = ["tie"] * len(pairs)
    for place, straight, turned in zip(places, choices[::2], choices[1::2], strict=True):
        verdicts[place] = combined(straight, turned)
    return verdicts


def combined(straight: Choice, turned: Choice) -> Verdict:
    """One verdict from a pair's choice as it is and its choice turned round."""
    if straight is None or turned is None:
        return None
    return straight if straight == _TURNED.get(turned, turned) else "inconsistent"


def _turned(pair: Pair) -> Pair:
    return replace(pair, first=pair.second, second=pair.first)
