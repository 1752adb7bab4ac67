"""The invariants that hold before training starts, checked on what was made, not on how it was made."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftune.core.several import several
from ftune.data.tokenize import IGNORED, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODED_ROWS = 256
"""How many rows are decoded and compared with their answers; everything else is checked on all rows."""

NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant of the prepared rows: a run with a failed check must not start."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class _Invariant:
    name: str
    holds: Callable[[Tokens], bool]
    limit: int | None = None
    """So many rows are looked at; all by default."""
    looked_at: int = 0
    broken: int = 0
    places: list[str] = field(default_factory=list)

    def take(self, tokens: Tokens, origin: str) -> None:
        if self.looked_at == self.limit:
            return
        self.looked_at += 1
        if not self.holds(tokens):
            self.broken += 1
            self.places += [origin] if len(self.places) < NAMED_ROWS else []

    def check(self) -> Check:
        found = f"{self.broken:,} of {several(self.looked_at, 'row')} break it: {', '.join(self.places)}"
        return Check(self.name, not self.broken, found if self.broken else several(self.looked_at, "row"))


class Checker:
    """Six invariants of tokenised rows, taken one by one; the first three rows that break one are named."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> None:
        """`vocab_size` is the model's."""
        self._tokenizer = tokenizer
        self._bos, self._unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
        self._stops = _stop_ids(tokenizer)
        self._invariants = [
            _Invariant("no double BOS", lambda row: self._bos is None or row.input_ids[:2] != [self._bos, self._bos]),
            _Invariant("the stop token of every answer is trained", self._stops_trained),
            _Invariant("nothing but answers is trained", _only_answers),
            _Invariant("every row has trained tokens", lambda row: row.trained > 0),
            _Invariant(
                f"ids are below the vocabulary size {vocab_size:,}", lambda row: max(row.input_ids) < vocab_size
            ),
            _Invariant("trained tokens decode to the answers", self._decodes, DECODED_ROWS),
        ]

    def take(self, tokens: Tokens, origin: str) -> None:
        """Look at one row."""
        for invariant in self._invariants:
            invariant.take(tokens, origin)

    def checks(self) -> list[Check]:
        """What was found."""
        return [invariant.check() for invariant in self._invariants]

    def _stops_trained(self, row: Tokens) -> bool:
        ends = [end - 1 for _, end, text in row.answers if text is not None]
        return all(row.input_ids[end] in self._stops and row.labels[end] == row.input_ids[end] for end in ends if end)

    def _decodes(self, row: Tokens) -> bool:
        answers = [(row.input_ids[start:end], text) for start, end, text in row.answers if text is not None]
        return all(
            self._unknown in ids
            or _same_text(str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)), text)
            for ids, text in answers
        )


def _only_answers(row: Tokens) -> bool:
    inside = sum(end - start - row.labels[start:end].count(IGNORED) for start, end, _ in row.answers)
    return inside == row.trained


def _stop_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Every token that can end an answer: the added ones, blanks apart."""
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}


def _same_text(decoded: str, text: str) -> bool:
    """Equal but for what tokenizers do to any text: Unicode composition, and a blank put first or taken away."""
    return unicodedata.normalize("NFC", decoded).lstrip(" ") == unicodedata.normalize("NFC", text).lstrip(" ")
