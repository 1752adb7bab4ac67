"""Prompt and completion rows."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from ftune.data.example import Example
from ftune.data.formats.base import SYSTEM, RowFormat, Values
from ftune.data.formats.chat import prompt_and_completion
from ftune.data.formats.tools import TOOLS


class PromptCompletionFormat(RowFormat):
    """Raw text in two parts, no chat template; the completion and its end are trained.

    Where both are lists of turns, they are one chat of which the prompt is never trained.

    {"prompt": "The capital of France is", "completion": " Paris."}
    """

    type: Literal["prompt_completion"] = "prompt_completion"
    keys: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    optional: ClassVar[tuple[str, ...]] = ("system", "tools")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {"system": SYSTEM, "tools": TOOLS}
    rank: ClassVar[int] = 26

    def to_example(self, row: Values) -> Example:
        """Both texts as they stand: a space between them belongs to one of them."""
        return prompt_and_completion(row)
