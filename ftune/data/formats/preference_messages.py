"""Preference rows with lists of turns."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Example, Message
from ftune.data.formats.base import SYSTEM, RowFormat, Values, described, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.chat import LISTS, opened, read_turns, turns_in
from ftune.data.formats.sides import MARGINS, margin_of, one_prompt, preference_of
from ftune.data.formats.tools import tools_of

PROMPTS = ("prompt", "question", "instruction", *LISTS)
"""Where the turns before the answers are: a text of the user or a list of turns."""


class PreferenceMessagesFormat(RowFormat):
    """A chosen and a rejected list of turns, or one turn each.

    Where they begin with the user or a system text, they are whole conversations (UltraFeedback), and the prompt is
    their longest common beginning. Where they are answers only, the prompt is the text or the list of turns under
    `prompt`, `conversations` (LLaMA-Factory) or `messages`.

    {"prompt": "Hi!", "chosen": [{"from": "gpt", "value": "Hello."}], "rejected": [{"from": "gpt", "value": "What?"}]}
    """

    type: Literal["preference_messages"] = "preference_messages"
    keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "system", "tools", *MARGINS)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"prompt": PROMPTS, "system": SYSTEM}
    rank: ClassVar[int] = 2

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Turns on either side, or in the prompt."""
        found = super().matches(row)
        turns = any(turns_in(row.get(key)) for key in (*cls.keys, *PROMPTS))
        return f"{found} with turns" if found and turns else None

    def to_example(self, row: Values) -> Example:
        """Both conversations, with the number of turns that they have in common."""
        chosen, rejected = (self._whole(row, key) for key in self.keys)
        return one_prompt(preference_of(chosen, rejected, margin_of(row)))

    def _whole(self, row: Values, key: str) -> Conversation:
        side = _side(row, key)
        if side[0].role in ("assistant", "tool"):
            side = (*self._prompt(row), *side)
        return Conversation(opened(row, side), tools_of(row))

    def _prompt(self, row: Values) -> tuple[Message, ...]:
        name = self.name_in(row, "prompt")
        if name is None:
            raise DataError(f"the answers have no prompt: 'prompt' is missing{did_you_mean('prompt', row)}")
        if turns := turns_in(row[name]):
            return read_turns(turns, name)
        return (Message("user", text_of(row, name)),)


def _side(row: Values, key: str) -> tuple[Message, ...]:
    """The turns of one side; a bare text is the assistant's answer."""
    value = row.get(key)
    if turns := turns_in(value):
        return read_turns(turns, key)
    if isinstance(parsed(value), list | dict):
        raise DataError(
            f"'{key}' is {described(parsed(value))}; it must be a turn with 'role' and 'content', or a list"
        )
    return (Message("assistant", text_of(row, key)),)
