"""Preference rows with texts."""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Example, Preference, PromptCompletion
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.exchange import before_answer
from ftune.data.formats.sides import MARGINS, answers_to, margin_of


class PreferenceFormat(RowFormat):
    """A chosen and a rejected text. With a prompt they are the assistant's answers to it.

    Without a prompt both are whole raw texts: the prompt is their longest common beginning, cut before the blanks at
    its last word border, so that both completions begin with a blank and with a whole word.

    {"prompt": "Name a river in France.", "chosen": "The Loire is one.", "rejected": "The Rhine, or whatever."}
    """

    type: Literal["preference"] = "preference"
    keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "input", "system", "history", *MARGINS)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "chosen": ("chosen", "chosen_response", "response_chosen", "response_j", "response"),
        "rejected": ("rejected", "rejected_response", "response_rejected", "response_k"),
        "prompt": ("prompt", "instruction", "question", "query", "input"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 6

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Both texts; the reason says what they are taken for."""
        found, prompt = super().matches(row), cls.name_in(row, "prompt")
        taken_for = f"answers to '{prompt}'" if prompt else "whole texts without a prompt"
        return found and f"{found}: {taken_for}"

    def to_example(self, row: Values) -> Example:
        """Both answers after their prompt: as chats where the row has it, else as raw texts."""
        chosen, rejected = self.text_under(row, "chosen"), self.text_under(row, "rejected")
        if self.name_in(row, "prompt") is None:
            return _raw(chosen, rejected, margin_of(row))
        return answers_to(before_answer(self, row, "prompt", "input"), chosen, rejected, margin_of(row))


def _raw(chosen: str, rejected: str, margin: float | None) -> Preference:
    if chosen == rejected:
        raise DataError("'chosen' and 'rejected' are the same: there is nothing to prefer")
    both = zip(chosen, rejected, strict=False)
    common = next((index for index, (one, other) in enumerate(both) if one != other), min(len(chosen), len(rejected)))
    if not common:
        raise DataError(
            "the two answers have no prompt, neither a column nor a common beginning; name its column in the recipe, "
            "as in 'columns: {prompt: ...}'"
        )
    borders = [match.start() for match in re.finditer(r"(?<!\s)\s+", chosen[:common])]
    cut = borders[-1] if borders else 0
    better, worse = (PromptCompletion(text[:cut], text[cut:]) for text in (chosen, rejected))
    return Preference(better, worse, margin)
