"""General text that ships with ftune: a model that predicts it worse than its base did has forgotten something.

Beginnings of books that nobody owns any more, and plain prose, letters, talk, numbers and code written for this.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT = Path(__file__).with_suffix(".txt")
LONGEST = 512
"""Tokens of a row."""


def general_rows(tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Each passage as token ids, with the tokenizer's own first token; passages are apart by blank lines."""
    passages = [part for part in TEXT.read_text(encoding="utf-8").split("\n\n") if len(part) > 120]
    rows: list[list[int]] = tokenizer(passages, truncation=True, max_length=LONGEST)["input_ids"]
    return rows
