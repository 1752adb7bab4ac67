"""OpenAI message rows."""

from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import RowFormat, Values
from ftune.data.formats.turns import conversation

ROLES = {role: role for role in ("system", "user", "assistant", "tool")} | {"developer": "system"}


class MessagesFormat(RowFormat):
    """A list of turns with `role` and `content`, as OpenAI's chat API has them.

    {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}
    """

    type: Literal["messages"] = "messages"
    keys: ClassVar[tuple[str, ...]] = ("messages",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    rank: ClassVar[int] = 10

    def to_example(self, row: Values) -> Example:
        """The turns as they stand."""
        return conversation(row, "messages", role="role", content="content", roles=ROLES)
