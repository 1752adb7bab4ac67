"""How byte-level tokenizers cut a text into words, and the names under which llama.cpp knows it."""

from collections.abc import Mapping
from typing import Any

from ftune.merge.gguf.architectures import UnfitError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

EXPRESSIONS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}": ("smaug-bpe", "llama-bpe"),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}": ("qwen2", ""),
    _CASED: ("", "tekken"),
}
"""Llama 3's, Qwen's and Mistral's: the name without and with `ignore_merges` (a word that is a token is not merged)."""

GPT2, GPT2_DIGITS = "gpt-2", "smollm"
"""GPT-2's expression, alone and after each digit has become a word."""


def split_name(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way in which this tokenizer.json cuts texts. Raises UnfitError where there is none."""
    if described["normalizer"] not in (None, {"type": "NFC"}):
        raise UnfitError("its tokenizer normalises texts")
    outer = described["pre_tokenizer"] or {}
    *cuts, last = outer.get("pretokenizers", [outer])
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise UnfitError("its tokenizer is neither byte-level nor SentencePiece's")
    whole_words = bool(described["model"].get("ignore_merges"))
    name = _name(cuts, own_expression=last["use_regex"], whole_words=whole_words)
    if not name:
        raise UnfitError("its tokenizer cuts texts in a way that has no name here")
    return name


def _name(cuts: list[dict[str, Any]], *, own_expression: bool, whole_words: bool) -> str:
    if own_expression:
        digits = [{"type": "Digits", "individual_digits": True}]
        return "" if whole_words else GPT2 if not cuts else GPT2_DIGITS if cuts == digits else ""
    if len(cuts) != 1 or cuts[0].get("type") != "Split" or cuts[0]["behavior"] != "Isolated" or cuts[0]["invert"]:
        return ""
    return EXPRESSIONS.get(cuts[0]["pattern"].get("Regex", ""), ("", ""))[whole_words]
