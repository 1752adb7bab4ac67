"""Alpaca instruction rows."""

from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message
from ftune.data.formats.base import RowFormat, Values, optional_text_of, text_of


class AlpacaFormat(RowFormat):
    """An instruction with its output; `input` and `system` are optional.

    The user's turn is the instruction, then a blank line and the input where there is one.

    {"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}
    """

    type: Literal["alpaca"] = "alpaca"
    keys: ClassVar[tuple[str, ...]] = ("instruction", "output")
    optional: ClassVar[tuple[str, ...]] = ("input", "system")
    rank: ClassVar[int] = 30

    def to_example(self, row: Values) -> Example:
        """One user turn and one assistant turn, after the system turn where the row has one."""
        parts = [part for part in (text_of(row, "instruction"), optional_text_of(row, "input")) if part.strip()]
        if not parts:
            raise DataError("'instruction' and 'input' are both empty")
        turns = [Message("user", "\n\n".join(parts)), Message("assistant", text_of(row, "output"))]
        if system := optional_text_of(row, "system"):
            turns.insert(0, Message("system", system))
        return Conversation(tuple(turns))
