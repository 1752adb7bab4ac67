"""Alpaca instruction rows and their relatives."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.exchange import exchange


class AlpacaFormat(RowFormat):
    """An instruction with its output; `input`, `system` and `history` (pairs of earlier turns) are optional.

    The user's turn is the instruction, then a blank line and the input where there is one. A row may have an input
    alone, as those of BIG-Bench Hard.

    {"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}
    """

    type: Literal["alpaca"] = "alpaca"
    keys: ClassVar[tuple[str, ...]] = ("instruction", "output")
    optional: ClassVar[tuple[str, ...]] = ("input", "system", "history")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "instruction": ("instruction", "definition", "input", "inputs", "input_text", "text_input"),
        "input": ("input", "inputs", "context"),
        "output": ("output", "response", "completion", "target", "targets", "output_text", "answer"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 30

    def to_example(self, row: Values) -> Example:
        """The user's turn and the assistant's, after the system text and the history where the row has them."""
        return exchange(self, row, ("instruction", "input"), self.text_under(row, "output"))
