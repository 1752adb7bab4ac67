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
from ftune.data.formats.tools import TOOLS, tools_of

PROMPTS = ("prompt", "question", "instruction", "context", "trajectory", *LISTS)
"""Where the turns before the answers are: a text of the user or a list of turns."""

WHOLE = "messages"
"""Of ms-swift, beside a rejected answer: the prompt and the chosen answer in one list."""

REQUEST = "input"
"""Where OpenAI's preference fine-tuning has the messages and the tools of the prompt."""


class PreferenceMessagesFormat(RowFormat):
    """A chosen and a rejected list of turns, or one turn each.

    Where they begin with the user or a system text, they are whole conversations (UltraFeedback), and the prompt is
    their longest common beginning. Where they are answers only, the prompt is the text or the list of turns under
    `prompt`, `conversations` (LLaMA-Factory) or `messages`, or what OpenAI has under `input`.

    {"prompt": "Hi!", "chosen": [{"from": "gpt", "value": "Hello."}], "rejected": [{"from": "gpt", "value": "What?"}]}
    """

    type: Literal["preference_messages"] = "preference_messages"
    keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "system", "tools", REQUEST, *MARGINS)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "chosen": ("chosen", "chosen_response", "preferred_output", WHOLE),
        "rejected": ("rejected", "rejected_response", "non_preferred_output", "rejected_messages"),
        "prompt": PROMPTS,
        "system": SYSTEM,
        "tools": TOOLS,
    }
    rank: ClassVar[int] = 2

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Turns on either side, or in the prompt."""
        found = super().matches(row)
        sides = (cls.name_in(row, key) or key for key in cls.keys)
        turns = any(turns_in(row.get(key)) for key in (*sides, *PROMPTS))
        return f"{found} with turns" if found and turns else None

    def to_example(self, row: Values) -> Example:
        """Both conversations, with the number of turns that they have in common."""
        if isinstance(request := row.get(REQUEST), dict):
            row = {**row, **request}
        chosen, rejected = (self._whole(row, self.name_in(row, key) or key) for key in self.keys)
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
            messages = read_turns(turns, name)
            return messages[:-1] if self.name_in(row, "chosen") == WHOLE else messages
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
