"""ShareGPT conversation rows."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.chat import conversation, list_name, speaks_by
from ftune.data.formats.tools import TOOLS


class ShareGPTFormat(RowFormat):
    """A list of turns with `from` and `value`; an optional `system` text stands before them.

    A turn of `function_call` is a tool call as JSON text, one of `observation` what the tool answered; `tools` of the
    row is a list or its JSON text.

    {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]}
    """

    type: Literal["sharegpt"] = "sharegpt"
    keys: ClassVar[tuple[str, ...]] = ("conversations",)
    optional: ClassVar[tuple[str, ...]] = ("system", "tools")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"system": SYSTEM, "tools": TOOLS}
    rank: ClassVar[int] = 14

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The list may have any name that chat data uses."""
        return list_name(row, key) if key == "conversations" else super().name_in(row, key)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A list of turns with `from`, under any name."""
        return super().matches(row) if speaks_by(row, "conversations", "from") else None

    def to_example(self, row: Values) -> Example:
        """The turns, with the roles under their usual names."""
        return conversation(row, self.name_in(row, "conversations") or "conversations")
