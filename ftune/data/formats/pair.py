"""Two columns of text as a chat."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.exchange import exchange


class PairFormat(RowFormat):
    """What the user says and what the assistant answers: any two columns, renamed with `columns:` in the recipe.

    {"user": "Name a river in France.", "assistant": "The Loire."}
    """

    type: Literal["pair"] = "pair"
    keys: ClassVar[tuple[str, ...]] = ("user", "assistant")
    optional: ClassVar[tuple[str, ...]] = ("system", "history")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "user": ("user", "human", "prompt"),
        "assistant": ("assistant", "response", "output", "answer"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 34

    def to_example(self, row: Values) -> Example:
        """One user turn and one assistant turn, after the system text and the history where the row has them."""
        return exchange(self, row, ("user",), self.text_under(row, "assistant"))
