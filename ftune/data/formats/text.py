"""Plain text rows."""

from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Example, Text
from ftune.data.formats.base import RowFormat, Values, text_of

PARTS = ("role", "code", "target", "output", "response", "completion", "answer", "labels")
"""Columns beside which a text is no document, but a turn, a question or something to label."""


class TextFormat(RowFormat):
    """One raw document a row; every token is trained.

    {"text": "It was a bright cold day in April."}
    """

    type: Literal["text"] = "text"
    keys: ClassVar[tuple[str, ...]] = ("text",)
    rank: ClassVar[int] = 90

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A text, and nothing beside it that says that it is only a part of what is meant."""
        return None if any(name in row for name in PARTS) else super().matches(row)

    def to_example(self, row: Values) -> Example:
        """The document as it stands."""
        text = text_of(row, "text")
        if not text.strip():
            raise DataError("'text' is empty; 'data.on_bad_row: drop' leaves such rows out")
        return Text(text)
