"""ShareGPT conversation rows."""

from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import RowFormat, Values
from ftune.data.formats.turns import conversation

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


class ShareGPTFormat(RowFormat):
    """A list of turns with `from` and `value`; an optional `system` text stands before them.

    {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]}
    """

    type: Literal["sharegpt"] = "sharegpt"
    keys: ClassVar[tuple[str, ...]] = ("conversations",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    rank: ClassVar[int] = 20

    def to_example(self, row: Values) -> Example:
        """The turns, with the roles under their usual names."""
        return conversation(row, "conversations", role="from", content="value", roles=ROLES)
