"""The invariants that hold before training starts, checked on what was made, not on how it was made."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftune.data.tokenize import IGNORED, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODED_ROWS = 256
"""How many rows are decoded and compared with their answers; everything else is checked on all rows."""


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant of the prepared rows: a run with a failed check must not start."""

    name: str
    ok: bool
    detail: str


def check_rows(
    rows: Sequence[Tokens], origins: Sequence[str], tokenizer: "PreTrainedTokenizerBase", vocab_size: int
) -> list[Check]:
    """Six invariants of tokenised rows; the first three rows that break one are named."""
    bos, unknown, stops = tokenizer.bos_token_id, tokenizer.unk_token_id, _stop_ids(tokenizer)

    def stops_trained(row: Tokens) -> bool:
        ends = [end - 1 for _, end, text in row.answers if text is not None]
        return all(row.input_ids[end] in stops and row.labels[end] == row.input_ids[end] for end in ends if end)

    def decodes(row: Tokens) -> bool:
        answers = [(row.input_ids[start:end], text) for start, end, text in row.answers if text is not None]
        return all(
            unknown in ids or _same_text(str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), text)
            for ids, text in answers
        )

    def holds(name: str, rule: Callable[[Tokens], bool], limit: int = len(rows)) -> Check:
        looked_at = rows[:limit]
        broken = [origin for row, origin in zip(looked_at, origins, strict=False) if not rule(row)]
        found = f"{len(broken):,} of {len(looked_at):,} rows break it: {', '.join(broken[:3])}"
        return Check(name, not broken, found if broken else f"{len(looked_at):,} rows")

    return [
        holds("no double BOS", lambda row: bos is None or row.input_ids[:2] != [bos, bos]),
        holds("the stop token of every answer is trained", stops_trained),
        holds("nothing but answers is trained", _only_answers),
        holds("every row has trained tokens", lambda row: row.trained > 0),
        holds(f"ids are below the vocabulary size {vocab_size:,}", lambda row: max(row.input_ids) < vocab_size),
        holds("trained tokens decode to the answers", decodes, DECODED_ROWS),
    ]


def _only_answers(row: Tokens) -> bool:
    inside = sum(end - start - row.labels[start:end].count(IGNORED) for start, end, _ in row.answers)
    return inside == row.trained


def _stop_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Every token that can end an answer: the added ones, blanks apart."""
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}


def _same_text(decoded: str, text: str) -> bool:
    """Equal but for what tokenizers do to any text: Unicode composition, and a blank put first or taken away."""
    return unicodedata.normalize("NFC", decoded).lstrip(" ") == unicodedata.normalize("NFC", text).lstrip(" ")
