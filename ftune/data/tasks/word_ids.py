"""Label words as tokens: as they stand behind a prompt, and whether their likelihoods can be compared."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING, NamedTuple

from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.data.tokenize import IGNORED, RowTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.data.template import Template


class WordIds(NamedTuple):
    """A prompt and the words that may follow it, in token ids."""

    prompt: list[int]
    words: list[list[int]]
    """Without the stop token."""


def word_ids(encoder: RowTokenizer, example: Answered, words: Sequence[str]) -> WordIds:
    """Each word in place of the example's answer, encoded as in training.

    The encoder's mask is `last` or `completion`. Raises DataError where the example cannot be encoded.
    """
    prompt: list[int] = []
    found = []
    for word in words:
        tokens = encoder.encode(_answered_by(example, word))
        start = next(place for place, label in enumerate(tokens.labels) if label != IGNORED)
        stop = next(place for place in reversed(range(len(tokens.labels))) if tokens.labels[place] != IGNORED)
        prompt = tokens.input_ids[:start]
        found.append(tokens.input_ids[start:stop])
    return WordIds(prompt, found)


def check_label_words(
    words: Sequence[str], tokenizer: "PreTrainedTokenizerBase", template: "Template | None" = None
) -> list[str]:
    """What makes the likelihoods of these words incomparable, in words; nothing where all is well.

    With a chat template the words are encoded as the assistant's answer, else as a completion.
    """
    asked = Conversation((Message("user", "?"),)) if template else PromptCompletion("?\n", "")
    return incomparable(words, word_ids(RowTokenizer(tokenizer, template, mask="last"), asked, words).words)


def incomparable(words: Sequence[str], ids: Sequence[Sequence[int]]) -> list[str]:
    """The faults of label words with these tokens.

    Words must be different sequences of tokens, and none the beginning of another: the longer one could never be
    likelier.
    """
    pairs = list(zip(words, map(list, ids), strict=True))
    faults = [f"the label word {word!r} has no token of its own" for word, own in pairs if not own]
    for (word, own), (other, others) in combinations(pairs, 2):
        if own and own == others:
            faults.append(f"the label words {word!r} and {other!r} are the same tokens")
    for (word, own), (longer, others) in permutations(pairs, 2):
        if own and len(own) < len(others) and others[: len(own)] == own:
            faults.append(
                f"the tokens of the label word {word!r} begin those of {longer!r}: the longer word would never be "
                "likelier; choose other words under 'format.labels'"
            )
    return faults


def _answered_by(example: Answered, word: str) -> Answered:
    if isinstance(example, PromptCompletion):
        return replace(example, completion=word)
    turns = example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages
    return replace(example, messages=(*turns, Message("assistant", word)))
