"""Two answers to one prompt: what chosen and rejected have in common, and by how much one is better."""

import math
from dataclasses import replace
from itertools import takewhile

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, Preference
from ftune.data.formats.base import Values, described

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"),
)
"""Columns with the scores of both answers."""

MARGINS = ("margin", *(name for pair in SCORES for name in pair))
"""Every column that `margin_of` reads."""


def preference_of(chosen: Conversation, rejected: Conversation, margin: float | None = None) -> Preference:
    """Two whole conversations with their longest common beginning as the prompt.

    It ends where both go on with the assistant. It is empty (`prompt_turns` 0) where they do not begin alike, which the
    caller judges. Raises DataError when both are the same.
    """
    if chosen.messages == rejected.messages:
        raise DataError("the chosen and the rejected answer are the same: there is nothing to prefer")
    both = list(zip(chosen.messages, rejected.messages, strict=False))
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
    ends = (index for index, (one, other) in enumerate(both) if one.role == other.role == "assistant")
    turns = max((index for index in ends if index <= common), default=0)
    better, worse = (replace(side, prompt_turns=turns) for side in (chosen, rejected))
    return Preference(better, worse, margin)


def one_prompt(preference: Preference) -> Preference:
    """The preference, if both sides answer the same turns."""
    if isinstance(preference.chosen, Conversation) and not preference.chosen.prompt_turns:
        raise DataError("the two answers have no prompt in common; both must begin with the same turns")
    return preference


def answers_to(prompt: tuple[Message, ...], chosen: str, rejected: str, margin: float | None = None) -> Preference:
    """Two texts as the assistant's turn after the same prompt."""
    one, other = (Conversation((*prompt, Message("assistant", text))) for text in (chosen, rejected))
    return preference_of(one, other, margin)


def margin_of(row: Values) -> float | None:
    """The row's margin, or the difference of its two scores; None where it has neither."""
    if row.get("margin") is not None:
        return number_of(row, "margin")
    for chosen, rejected in SCORES:
        if row.get(chosen) is not None and row.get(rejected) is not None:
            return number_of(row, chosen) - number_of(row, rejected)
    return None


def number_of(row: Values, key: str) -> float:
    """The finite number under `key`; a table holds it as text."""
    value = row.get(key)
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"'{key}' is {described(value)}; it must be a number")
    return number
