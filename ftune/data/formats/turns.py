"""Rows of turns without roles."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Example, Message
from ftune.data.formats.base import SYSTEM, RowFormat, Values, checked_text, described
from ftune.data.formats.cells import parsed
from ftune.data.formats.chat import opened

LISTS = ("turns", "data", "dialog", "conversations", "conversation")
"""Names under which rows hold a list of texts; LIMA has them under `conversations`."""

QUESTIONS = "question_id"
"""A column of MT-bench and its relatives, whose `turns` are what the user asks one after the other."""


class TurnsFormat(RowFormat):
    """A list of texts that the user and the assistant say in turn, the user first.

    Beside a `question_id`, as in MT-bench, all of them are questions of the user.

    {"turns": ["Hi!", "Hello. What can I do for you?"]}
    """

    type: Literal["turns"] = "turns"
    keys: ClassVar[tuple[str, ...]] = ("turns",)
    optional: ClassVar[tuple[str, ...]] = ("system",)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"system": SYSTEM}
    rank: ClassVar[int] = 11

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The list may have any of several names, but none of them says enough: it must hold texts."""
        if key != "turns":
            return super().name_in(row, key)
        return next((name for name in LISTS if _are_texts(row.get(name))), None)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A list of texts; the reason says whose they are."""
        found = super().matches(row)
        return f"{found}: questions without answers, as '{QUESTIONS}' says" if found and QUESTIONS in row else found

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """The mark of questions is read too."""
        return super().used(row) | {QUESTIONS}

    def to_example(self, row: Values) -> Example:
        """The texts as turns of the user and the assistant."""
        name = self.name_in(row, "turns") or "turns"
        if name not in row:
            raise DataError(f"'{name}' is missing{did_you_mean(name, row)}")
        texts = parsed(row[name])
        if not isinstance(texts, list):
            raise DataError(f"'{name}' is {described(texts)}; it must be a list of texts")
        if not texts:
            raise DataError(f"'{name}' is empty; a conversation needs at least one turn")
        said = [checked_text(text, f"{name}[{index}]") for index, text in enumerate(texts)]
        answered = QUESTIONS not in row
        turns = (Message("assistant" if answered and index % 2 else "user", text) for index, text in enumerate(said))
        return Conversation(opened(row, tuple(turns)))


def _are_texts(value: object) -> bool:
    """Only the first is looked at: what comes after it is judged when it is read."""
    texts = parsed(value)
    return isinstance(texts, list) and bool(texts) and isinstance(texts[0], str)
