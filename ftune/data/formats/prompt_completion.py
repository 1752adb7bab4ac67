"""Prompt and completion rows."""

from typing import ClassVar, Literal

from ftune.data.example import Example, PromptCompletion
from ftune.data.formats.base import RowFormat, Values, text_of


class PromptCompletionFormat(RowFormat):
    """Raw text in two parts, no chat template; the completion and its end are trained.

    {"prompt": "The capital of France is", "completion": " Paris."}
    """

    type: Literal["prompt_completion"] = "prompt_completion"
    keys: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    rank: ClassVar[int] = 26

    def to_example(self, row: Values) -> Example:
        """Both texts as they stand: a space between them belongs to one of them."""
        return PromptCompletion(text_of(row, "prompt"), text_of(row, "completion"))
