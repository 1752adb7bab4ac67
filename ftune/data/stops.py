"""The tokens that end a reply."""

from typing import TYPE_CHECKING

from ftune.data.example import Conversation, Message
from ftune.data.template import Template
from ftune.data.tokenize import IGNORED, RowTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_ids(tokenizer: "PreTrainedTokenizerBase", template: Template | None) -> tuple[int, ...]:
    """The end of text, and what training puts behind an answer under this template. Raises DataError as `encode`."""
    found = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    if template is not None:
        asked = Conversation((Message("user", "a"), Message("assistant", "b")))
        labels = RowTokenizer(tokenizer, template, mask="last").encode(asked).labels
        found.add(next(label for label in reversed(labels) if label != IGNORED))
    return tuple(sorted(found))
