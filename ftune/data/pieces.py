"""Texts to token ids in pieces, so that no token lies across the border of what is trained.

Each piece is encoded by itself, but as in the middle of its text. Inside of a piece the tokenizer works as always.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MID_TEXT = "\ue000"
"""Put before a piece that continues a text, and cut off again: tokenizers that put a blank before every text (Llama 2)
then put it before this character, which merges with nothing."""


class Run(NamedTuple):
    """A stretch of text. `cut` keeps a border before it even where it is trained like the run before."""

    text: str
    trained: bool
    cut: bool = False


class Piece(NamedTuple):
    """What is encoded in one go. `context` is encoded before it and taken away again."""

    text: str
    trained: bool
    cut: bool
    context: str


class PieceEncoder:
    """Cuts texts into pieces and encodes them with one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.content.strip()}
        self._ends_in_token = re.compile(f"(?:{any_of(names).pattern})\\Z")
        self._blank_first = _puts_blank_first(tokenizer)
        self._needs_context = self._blank_first or any(token.rstrip for token in added)
        plain = {token.content for token in added if token.special and not (token.single_word or token.normalized)}
        self._added, self._cuts = any_of(names), plain if tokenizer.is_fast and not self._needs_context else set()

    def pieces(self, runs: Sequence[Run]) -> list[Piece]:
        """The fewest pieces that keep every border."""
        pieces: list[Piece] = []
        for text, trained, cut in runs:
            if not text:
                continue
            if pieces and not cut and pieces[-1].trained == trained:
                pieces[-1] = pieces[-1]._replace(text=pieces[-1].text + text)
            else:
                pieces.append(Piece(text, trained, cut, self._context(pieces[-1].text) if pieces else ""))
        return pieces

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """The ids of each piece, in one call of the tokenizer; equal texts are encoded once."""
        if not pieces:
            return []
        sections = [list(self._sections(piece.context + piece.text)) for piece in pieces]
        contexts = (piece.context for piece in pieces if piece.context)
        unique = list(dict.fromkeys(chain(chain.from_iterable(sections), contexts)))
        encoded = self._tokenizer(unique, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: dict[str, list[int]] = dict(zip(unique, encoded["input_ids"], strict=True)) | {"": []}
        return [
            list(chain.from_iterable(map(ids.__getitem__, texts)))[len(ids[piece.context]) :]
            for piece, texts in zip(pieces, sections, strict=True)
        ]

    def _sections(self, text: str) -> Iterator[str]:
        """The text cut behind its special tokens, where tokenizers cut too: what many rows share is encoded once."""
        start = 0
        for match in self._added.finditer(text) if self._cuts else ():
            if match.group() in self._cuts:
                yield text[start : match.end()]
                start = match.end()
        if start < len(text):
            yield text[start:]

    def _context(self, previous: str) -> str:
        """What must stand before a piece so that it is encoded as in the middle of its text."""
        if not self._needs_context:
            return ""
        if token := self._ends_in_token.search(previous):
            return token.group()
        return MID_TEXT if self._blank_first else ""


def any_of(tokens: set[str]) -> re.Pattern[str]:
    """Any of these tokens, the longest first; without any, a pattern that matches nothing."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _puts_blank_first(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether "a" is encoded as " a" at the beginning of a text."""
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
    return str(first).startswith(("▁", "Ġ"))
