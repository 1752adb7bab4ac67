"""Rows of turns without roles."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message
from ftune.data.formats.base import SYSTEM, RowFormat, Values, checked_text, described, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.chat import opened


class TurnsFormat(RowFormat):
    """A list of texts that the user and the assistant say in turn, the user first.

    {"turns": ["Hi!", "Hello. What can I do for you?"]}
    """

    type: Literal["turns"] = "turns"
    keys: ClassVar[tuple[str, ...]] = ("turns",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"turns": ("turns", "data", "dialog"), "system": SYSTEM}
    rank: ClassVar[int] = 16

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """The names `data` and `dialog` say too little: a list of texts must be under them."""
        name = cls.name_in(row, "turns")
        texts = parsed(row.get(name)) if name else None
        alternate = isinstance(texts, list) and bool(texts) and isinstance(texts[0], str)
        return super().matches(row) if alternate or name == "turns" else None

    def to_example(self, row: Values) -> Example:
        """The texts as turns of the user and the assistant."""
        name = self.name_in(row, "turns") or "turns"
        texts = parsed(row.get(name))
        if name not in row:
            text_of(row, name)
        if not isinstance(texts, list):
            raise DataError(f"'{name}' is {described(texts)}; it must be a list of texts")
        if not texts:
            raise DataError(f"'{name}' is empty; a conversation needs at least one turn")
        said = [checked_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]
        turns = (Message("assistant" if index % 2 else "user", text) for index, text in enumerate(said))
        return Conversation(opened(row, tuple(turns)))
