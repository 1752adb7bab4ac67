"""Dolly instruction rows."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.exchange import exchange


class DollyFormat(RowFormat):
    """An instruction with its response; the context may be empty.

    The user's turn is the instruction, then a blank line and the context where there is one.

    {"instruction": "Who wrote it?", "context": "Emma is by Jane Austen.", "response": "Jane Austen."}
    """

    type: Literal["dolly"] = "dolly"
    keys: ClassVar[tuple[str, ...]] = ("instruction", "response")
    optional: ClassVar[tuple[str, ...]] = ("context", "system")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"system": SYSTEM}
    rank: ClassVar[int] = 28

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """The context tells these rows from Alpaca's relatives."""
        return super().matches(row) and "keys 'instruction', 'context' and 'response'" if "context" in row else None

    def to_example(self, row: Values) -> Example:
        """One user turn and one assistant turn, after the system turn where the row has one."""
        return exchange(self, row, ("instruction", "context"), self.text_under(row, "response"))
