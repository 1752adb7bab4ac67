"""Rows with a list of questions and answers in pairs."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Example, Message
from ftune.data.formats.base import SYSTEM, RowFormat, Values, described, optional_text_of, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.chat import opened

LISTS = ("conversation", "conversations", "dialog", "turns")
"""Names under which rows hold such a list."""

PAIRS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("question", "answer"))
"""What both sides of an exchange are called: by Capybara, by ms-swift, and by others."""


class ExchangesFormat(RowFormat):
    """A list of exchanges, each what the user and what the assistant says; the first may have a `system` text.

    {"conversation": [{"input": "Hi!", "output": "Hello."}, {"input": "Name a river.", "output": "The Loire."}]}
    """

    type: Literal["exchanges"] = "exchanges"
    keys: ClassVar[tuple[str, ...]] = ("conversation",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"conversation": LISTS, "system": SYSTEM}
    rank: ClassVar[int] = 16

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A list of pairs, under any name."""
        name = cls.name_in(row, "conversation")
        pair = _pair(row.get(name)) if name else None
        return f"key '{name}': exchanges of '{pair[0]}' and '{pair[1]}'" if pair else None

    def to_example(self, row: Values) -> Example:
        """The exchanges as turns of the user and the assistant."""
        name = self.name_in(row, "conversation")
        if name is None:
            raise DataError(f"'conversation' is missing{did_you_mean('conversation', row)}")
        exchanges, pair = parsed(row[name]), _pair(row[name])
        if not isinstance(exchanges, list) or pair is None:
            raise DataError(
                f"'{name}' is {described(exchanges)}; it must be a list of objects with 'input' and 'output'"
            )
        turns: list[Message] = []
        for index, exchange in enumerate(exchanges):
            try:
                turns += _turns(exchange, pair, first=index == 0)
            except DataError as error:
                raise DataError(f"{name}[{index}]: {error}") from None
        return Conversation(opened(row, tuple(turns)))


def _pair(value: object) -> tuple[str, str] | None:
    """What both sides are called in the first exchange of a list."""
    exchanges = parsed(value)
    first = exchanges[0] if isinstance(exchanges, list) and exchanges else None
    if not isinstance(first, dict):
        return None
    return next((pair for pair in PAIRS if all(key in first for key in pair)), None)


def _turns(exchange: object, pair: tuple[str, str], *, first: bool) -> list[Message]:
    if not isinstance(exchange, dict):
        raise DataError(f"it is {described(exchange)}; it must be an object with '{pair[0]}' and '{pair[1]}'")
    system = optional_text_of(exchange, "system")
    if system and not first:
        raise DataError("it has a system text; only the first exchange may have one")
    before = [Message("system", system)] if system else []
    return [*before, Message("user", text_of(exchange, pair[0])), Message("assistant", text_of(exchange, pair[1]))]
