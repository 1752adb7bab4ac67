"""A tokenizer as llama.cpp keeps it: tokens with their types, and either merges or scores.

The tokenizer is taken as it is at work, not as its class is known, because what counts is how the model was trained.
What llama.cpp cannot do in the same way is refused; two limits of it remain: it does not normalise to NFC (Qwen), and
it puts the blank of a Llama 2 text also behind a special token in it, where some tokenizers do not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ftune.merge.gguf.architectures import UnfitError
from ftune.merge.gguf.splits import split_name

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

BLANK = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in a GGUF file."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file says about a tokenizer."""

    model: str
    """`gpt2`: byte-level BPE by merges. `llama`: SentencePiece's BPE by scores, unknown characters as bytes."""
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    split: str
    """The name under which llama.cpp knows how a text is cut into words; `default` for `llama`."""
    prefix: bool
    """Whether a blank comes before the text."""

    def write(self, writer: "GGUFWriter") -> None:
        """Add it to a file's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        writer.add_add_space_prefix(self.prefix)


def vocabulary_of(tokenizer: "PreTrainedTokenizerBase", size: int) -> Vocabulary:
    """The vocabulary of a tokenizer for a model with `size` rows in its embedding; rows without a token get one.

    Raises UnfitError for a tokenizer that llama.cpp cannot do in the same way.
    """
    if not tokenizer.is_fast:
        raise UnfitError("its tokenizer has no tokenizer.json")
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model.get("type") != "BPE":
        raise UnfitError(f"its tokenizer is of type {model.get('type')}, not BPE")
    if odd := [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]:
        raise UnfitError(f"its tokenizer uses {odd[0]}")
    tokens, types = _tokens(described, size)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    if not model.get("byte_fallback"):
        split = split_name(described)
        return Vocabulary("gpt2", tokens, types, [" ".join(merge) for merge in merges], [], split, prefix=False)
    # a token that is found in the text as a whole is not merged: Gemma's runs of blanks and line breaks
    whole = {token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED}
    _check_scores_say_it(model["vocab"], [merge for merge in merges if "".join(merge) not in whole])
    prefix = _blank_first(described)
    for place, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == NORMAL and len(token) == 6 and token.startswith("<0x"):
            types[place] = BYTE
        if kind == USER_DEFINED:  # found in the text before its blanks become ▁
            tokens[place] = token.replace(BLANK, " ")
        if token == model.get("unk_token"):
            types[place] = UNKNOWN
    return Vocabulary("llama", tokens, types, [], _scores(tokens, merges), "default", prefix)


def _tokens(described: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    known = {place: (token, NORMAL) for token, place in described["model"]["vocab"].items()}
    for added in described["added_tokens"]:
        known[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if max(known) >= size:
        raise UnfitError(f"its tokenizer has ids up to {max(known)}, and its embedding {size} rows")
    filled = [known.get(place, (f"[PAD{place}]", UNUSED)) for place in range(size)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """A score for each token: the sooner it is merged, the higher. Those that no merge makes come last."""
    made = dict.fromkeys("".join(merge) for merge in merges)
    order = {token: -float(rank) for rank, token in enumerate(made)}
    return [order.get(token, -float(len(order))) for token in tokens]


def _check_scores_say_it(vocab: Mapping[str, int], merges: Sequence[tuple[str, ...]]) -> None:
    """llama.cpp merges any two neighbours that make a token, the best token first: merges must say no less.

    True of every tokenizer that SentencePiece trained, and of few others.
    """
    made = ["".join(merge) for merge in merges]
    changes = sum(one != other for one, other in pairwise(made)) + bool(made)
    if changes != len(set(made)):
        raise UnfitError("its tokenizer merges in an order that scores cannot give")
    listed = set(merges)
    for token in set(made):
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        if any(left in vocab and right in vocab and (left, right) not in listed for left, right in pairs):
            raise UnfitError(f"its tokenizer makes '{token}' in fewer ways than scores would allow")


def _blank_first(described: Mapping[str, Any]) -> bool:
    """Whether a text gets a blank before it, and a check that blanks are all that the tokenizer changes."""
    normalizer, splitter = described["normalizer"] or {}, described["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    if splitter.get("type") == "Metaspace" and not steps:
        if splitter.get("split") or splitter["replacement"] != BLANK:
            raise UnfitError("its tokenizer cuts texts at blanks")
        return bool(splitter["prepend_scheme"] != "never")
    if splitter and splitter.get("type") != "Split":  # Gemma's, at blanks that are none any more
        raise UnfitError(f"its tokenizer cuts texts by {splitter['type']}")
    if steps == [blanks]:
        return False
    if steps == [{"type": "Prepend", "prepend": BLANK}, blanks]:
        return True
    raise UnfitError("its tokenizer normalises texts")
