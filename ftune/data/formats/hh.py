"""Rows of hh-rlhf: two whole dialogues, each as one text."""

import re
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message, Role
from ftune.data.formats.base import RowFormat, Values, described, optional_text_of
from ftune.data.formats.sides import MARGINS, margin_of, preference_of

MARK = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


class HHFormat(RowFormat):
    r"""Two dialogues of `\n\nHuman: ` and `\n\nAssistant: ` turns, or a `prompt` of such turns and two replies.

    The prompt is the longest common beginning that ends at an Assistant mark. Blanks around a turn belong to the
    layout. What the published files hold is kept: empty replies, and two turns of one speaker in a row. Where the
    dialogues do not begin alike, as in a few published rows, no turn is marked as the prompt.

    {"chosen": "\n\nHuman: Hi!\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi!\n\nAssistant: What?"}
    """

    type: Literal["hh"] = "hh"
    keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    optional: ClassVar[tuple[str, ...]] = ("prompt", *MARGINS)
    rank: ClassVar[int] = 4

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A dialogue in one text, on either side or as the prompt."""
        found = super().matches(row)
        marked = any(_is_dialogue(row.get(key)) for key in ("chosen", "rejected", "prompt"))
        return f"{found} of Human and Assistant turns" if found and marked else None

    def to_example(self, row: Values) -> Example:
        """Both dialogues as conversations."""
        prompt = optional_text_of(row, "prompt")
        chosen, rejected = (self._dialogue(row, key, prompt) for key in self.keys)
        return preference_of(chosen, rejected, margin_of(row))

    def _dialogue(self, row: Values, key: str, prompt: str) -> Conversation:
        text = self.text_under(row, key)
        whole = text if _is_dialogue(text) or not prompt else f"{prompt.rstrip()} {text}"
        if not _is_dialogue(whole):
            raise DataError(f"'{key}' is {described(text)}; it must begin with 'Human:' or 'Assistant:'")
        return Conversation(_turns(whole))


def asked_in(prompt: object) -> tuple[Message, ...]:
    """The turns of a prompt that is a dialogue, without the Assistant mark at its end; nothing of any other."""
    turns = _turns(prompt) if isinstance(prompt, str) and _is_dialogue(prompt) else ()
    return turns[:-1] if turns and turns[-1] == Message("assistant", "") else turns


def _is_dialogue(text: object) -> bool:
    return isinstance(text, str) and MARK.match(text.strip()) is not None


def _turns(text: str) -> tuple[Message, ...]:
    _, *parts = MARK.split(text.strip())
    said = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(SPEAKERS[speaker], words.strip()) for speaker, words in said)
