"""Question and answer rows."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Example, Skipped
from ftune.data.formats.base import SYSTEM, RowFormat, Values, checked_text, described
from ftune.data.formats.cells import parsed
from ftune.data.formats.exchange import exchange

OPTIONS = ("choices", "options", "choice", "endings")
"""Columns of multiple choice: their answers are numbers or letters of options, not answers."""


SEVERAL = ("answer", "answers")
"""Columns that may hold several ways to write the answer."""

NO_ANSWER = "a question without an answer"


class QuestionAnswerFormat(RowFormat):
    """A question with its answer; a context, such as SQuAD's passage, stands before the question.

    A worked solution is taken before a bare answer where a row has both. A number as an answer stands for its text. Of
    several ways to write the answer the first is taken: a list of texts, SQuAD's {"text": [...]}, TriviaQA's {"value":
    ...}.

    {"question": "What is 6 times 12?", "answer": "72"}
    """

    type: Literal["question_answer"] = "question_answer"
    keys: ClassVar[tuple[str, ...]] = ("question", "answer")
    optional: ClassVar[tuple[str, ...]] = ("context", "system", "history")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("question", "query", "problem"),
        "answer": ("solution", "answer", "response", "output", "ground_truth", "answers"),
        "context": ("context", "passage", "article", "story", "body"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 32

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Any question with any answer, but no multiple choice."""
        return None if any(key in row for key in OPTIONS) else super().matches(row)

    def to_example(self, row: Values) -> Example | Skipped:
        """One user turn and one assistant turn, after the system text and the history where the row has them."""
        name = self.name_in(row, "answer") or "answer"
        answer = row.get(name)
        if name in SEVERAL:
            answer = parsed(answer) if name == "answers" else answer  # other lists in brackets may be the answer itself
            if isinstance(answer, dict):
                answer = next((answer[key] for key in ("text", "value") if key in answer), answer)
            if isinstance(answer, list):
                if not answer:
                    return Skipped(NO_ANSWER)
                answer = answer[0]
        return exchange(self, row, ("context", "question"), self._text(row, name, answer))

    def _text(self, row: Values, name: str, answer: object) -> str:
        if isinstance(answer, int | float) and not isinstance(answer, bool):
            if answer != answer or answer in (float("inf"), float("-inf")):
                raise DataError(f"'{name}' is {described(answer)}; it must be text or a number")
            return str(answer)
        return checked_text(answer, f"'{name}'") if name in row else self.text_under(row, "answer")
