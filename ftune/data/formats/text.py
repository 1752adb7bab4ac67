"""Plain text rows."""

from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Example, Text
from ftune.data.formats.base import RowFormat, Values, text_of


class TextFormat(RowFormat):
    """One raw document a row; every token is trained.

    {"text": "It was a bright cold day in April."}
    """

    type: Literal["text"] = "text"
    keys: ClassVar[tuple[str, ...]] = ("text",)
    rank: ClassVar[int] = 90

    def to_example(self, row: Values) -> Example:
        """The document as it stands."""
        text = text_of(row, "text")
        if not text.strip():
            raise DataError("'text' is empty")
        return Text(text)
