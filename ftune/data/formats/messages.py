"""OpenAI message rows."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.chat import conversation, list_name, speaks_by
from ftune.data.formats.tools import TOOLS


class MessagesFormat(RowFormat):
    """A list of turns with `role` and `content`, as OpenAI's chat API has them.

    A content may be a list of parts {"type": "text", "text": ...}. Turns may have `tool_calls`, and the row `tools`. A
    `system` text beside the list stands before it.

    {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}
    """

    type: Literal["messages"] = "messages"
    keys: ClassVar[tuple[str, ...]] = ("messages",)
    optional: ClassVar[tuple[str, ...]] = ("system", "tools")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"system": SYSTEM, "tools": TOOLS}
    rank: ClassVar[int] = 12

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The list may have any name that chat data uses."""
        return list_name(row, key) if key == "messages" else super().name_in(row, key)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A list of turns with `role`, under any name."""
        return super().matches(row) if speaks_by(row, "messages", "role") else None

    def to_example(self, row: Values) -> Example:
        """The turns as they stand."""
        return conversation(row, self.name_in(row, "messages") or "messages")
