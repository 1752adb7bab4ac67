"""How a classifier's tokens are made of a text or a conversation: as they were in its training."""

from collections.abc import Sequence

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Plain, PromptCompletion
from ftune.data.template import choose_template
from ftune.data.tokenize import IGNORED, Answer, RowTokenizer, Tokens
from ftune.rewards.classifiers.load import LoadedClassifier


def tokenizer_of(loaded: LoadedClassifier) -> RowTokenizer:
    """What encodes rows for a classifier, with its own tokenizer and, where it has one, its own chat template."""
    template = choose_template(loaded.tokenizer) if loaded.tokenizer.chat_template else None
    kind = RowTokenizer if loaded.causal else MarkedTexts
    return kind(loaded.tokenizer, template)


class MarkedTexts(RowTokenizer):
    """For encoders: their tokenizers know what stands around a text, which needs no end-of-sequence token."""

    def encode_batch(self, examples: Sequence[Plain]) -> list[Tokens | DataError]:
        """Texts with their marks; conversations as their template renders them."""
        return [
            super(MarkedTexts, self).encode_batch([example])[0]
            if isinstance(example, Conversation)
            else self._marked(example)
            for example in examples
        ]

    def _marked(self, example: Plain) -> Tokens:
        """A text, of which the completion counts as the answer; where there is none, all of it does."""
        if isinstance(example, PromptCompletion):
            text, before = example.prompt + example.completion, len(self._ids(example.prompt))
        else:
            text, before = getattr(example, "text", ""), 1
        # An empty text has no tokens without marks around it, and a model reads one at least.
        ids = self._ids(text) or [int(self._tokenizer.pad_token_id)]
        first = min(max(before, 1), len(ids) - 1)
        return Tokens(ids, [IGNORED] * first + ids[first:], [Answer(first, len(ids), None)])

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])
