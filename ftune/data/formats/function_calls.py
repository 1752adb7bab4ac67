"""Rows of a question and the function calls that answer it."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message, Skipped
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.cells import parsed
from ftune.data.formats.exchange import before_answer
from ftune.data.formats.tools import calls_of, tools_of


class FunctionCallsFormat(RowFormat):
    """A question, the tools, and the calls that answer it, as xLAM has them; lists may be JSON text.

    {"query": "Add 1 and 2.", "tools": [{"name": "add"}], "answers": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}
    """

    type: Literal["function_calls"] = "function_calls"
    keys: ClassVar[tuple[str, ...]] = ("query", "tools", "answers")
    optional: ClassVar[tuple[str, ...]] = ("system",)
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "query": ("query", "question", "instruction", "prompt"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 22

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Answers that are objects, beside tools."""
        answers = parsed(row.get("answers"))
        calls = isinstance(answers, list) and all(isinstance(call, dict) for call in answers)
        return super().matches(row) if calls else None

    def to_example(self, row: Values) -> Example | Skipped:
        """The question as the user's turn, the calls as the assistant's. A row without a call is left out."""
        tools = tools_of(row)
        if not tools:
            raise DataError("'tools' is missing or empty; calls need the functions that they call")
        if row.get("answers") is None:
            raise DataError("'answers' is missing; it must be a list of calls {name, arguments}")
        if not (calls := calls_of(row["answers"], "'answers'")):
            return Skipped("a question without a call")
        return Conversation((*before_answer(self, row, "query"), Message("assistant", "", calls)), tools)
