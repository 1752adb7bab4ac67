"""Rows that hold a prompt and no answer."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Conversation, Example, Message, PromptCompletion
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.chat import conversation, opened, turns_in


class PromptFormat(RowFormat):
    """A prompt without an answer: a text is what the user says, a list of turns is a chat.

    `ftune ppo` takes it where rows fit no other layout; everywhere else it would hide that answers are missing.

    {"prompt": "Name a river."}
    """

    type: Literal["prompt"] = "prompt"
    keys: ClassVar[tuple[str, ...]] = ("prompt",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("prompt", "instruction", "question", "query"),
        "system": SYSTEM,
    }
    detected: ClassVar[bool] = False

    raw: bool = False
    """A text is the model's own language, which it goes on with; no chat template."""

    def to_example(self, row: Values) -> Example:
        """One user turn, or the turns there are."""
        name = self.name_in(row, "prompt") or "prompt"
        if turns_in(row.get(name)):
            return conversation(row, name)
        text = self.text_under(row, "prompt")
        if self.raw:
            return PromptCompletion(text, "")
        return Conversation(opened(row, (Message("user", text),)))
