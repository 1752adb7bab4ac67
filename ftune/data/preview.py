"""Rows as the model will see them: what is trained, what is not, where control tokens stand."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ftune.data.prepared import Prepared
from ftune.data.tokenize import IGNORED

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories that are shown by their numbers: a preview hides nothing and moves no cursor."""


class Span(NamedTuple):
    """Neighbouring tokens of one kind, as text."""

    text: str
    trained: bool
    control: bool


def spans(ids: list[int], labels: list[int], tokenizer: "PreTrainedTokenizerBase") -> Iterator[Span]:
    r"""A row in stretches: trained or not, control token or text.

    Text that only looks like a control token gets a `\` before it.
    """
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    lookalike = re.compile("|".join(map(re.escape, special.values())) or r"(?!)")
    kinds = [(label != IGNORED, token in special) for token, label in zip(ids, labels, strict=True)]
    for (trained, control), group in groupby(zip(ids, kinds, strict=True), key=lambda pair: pair[1]):
        text = escaped(_decoded([token for token, _ in group], tokenizer))
        yield Span(text if control else lookalike.sub(r"\\\g<0>", text), trained, control)


def render_preview(
    prepared: Prepared,
    tokenizer: "PreTrainedTokenizerBase",
    n: int = 3,
    *,
    bins: Sequence[Sequence[int]] | None = None,
    color: bool = True,
    width: int = 80,
) -> "Text":
    """The first `n` sequences, then the counts and the checks. Of preferences, the rejected answers too.

    `bins` are packed sequences as indexes of rows; each shows where its documents begin. With colour, trained text is
    green, other text dim and control tokens reversed; without, trained text stands in `[[...]]`. Line ends are line
    ends; other control characters are escaped.
    """
    from rich.text import Text

    text = Text()

    def rule(title: str, mark: str = "-") -> None:
        text.append(f"{mark * 2} {title} ".ljust(width, mark) + "\n", "bold" if color else "")

    def row(rows: Prepared, index: int, side: str = "") -> None:
        ids, labels = rows.ids(index), rows.labels(index)
        trained = len(labels) - labels.count(IGNORED)
        rule(f"{rows.origins[index]}:{side} {len(ids):,} tokens, {trained:,} trained")
        _append_row(text, ids, labels, tokenizer, color=color)

    if bins is None:
        for index in range(min(n, len(prepared))):
            row(prepared, index, " chosen," if prepared.is_preference else "")
            if prepared.is_preference:
                row(prepared.rejected(), index, " rejected,")
    else:
        for number, documents in enumerate(bins[:n], 1):
            tokens = sum(len(prepared.ids(index)) for index in documents)
            rule(f"packed sequence {number}: {len(documents)} documents, {tokens:,} tokens", "=")
            for index in documents:
                row(prepared, index)
    text.append("-" * width + "\n")
    text.append("\n".join([f"format: {prepared.format} ({prepared.reason})", *prepared.counts.lines()]) + "\n")
    for check in prepared.checks:
        style = ("green" if check.ok else "bold red") if color else ""
        text.append("ok    " if check.ok else "FAIL  ", style)
        text.append(f"{check.name}: {check.detail}\n")
    return text


def _append_row(
    text: "Text", ids: list[int], labels: list[int], tokenizer: "PreTrainedTokenizerBase", *, color: bool
) -> None:
    for trained_run, run in groupby(spans(ids, labels, tokenizer), key=lambda span: span.trained):
        text.append("[[" if trained_run and not color else "")
        for span in run:
            text.append(span.text, _style(span) if color else "")
        text.append("]]" if trained_run and not color else "")
    text.append("\n")


def preview_json(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", n: int = 3) -> list[dict[str, Any]]:
    """The first `n` rows for machines: `ids`, their `tokens` as the vocabulary spells them, `trained` flags.

    Of preferences, the same of the rejected answer under `rejected`.
    """

    def described(rows: Prepared, index: int) -> dict[str, Any]:
        ids, labels = rows.ids(index), rows.labels(index)
        return {
            "origin": rows.origins[index],
            "ids": ids,
            "tokens": tokenizer.convert_ids_to_tokens(ids),
            "trained": [label != IGNORED for label in labels],
            "counts": {"tokens": len(ids), "trained": len(labels) - labels.count(IGNORED)},
        }

    both, rejected = prepared.is_preference, prepared.rejected()
    return [
        described(prepared, index) | ({"rejected": described(rejected, index)} if both else {})
        for index in range(min(n, len(prepared)))
    ]


def escaped(text: str) -> str:
    r"""The text with everything that has no shape of its own, line ends apart, as `\x1b` or `\u202e`."""
    return "".join(
        character.encode("unicode_escape").decode()
        if character != "\n" and unicodedata.category(character) in INVISIBLE
        else character
        for character in text
    )


def _style(span: Span) -> str:
    return ("green" if span.trained else "dim") + (" reverse" if span.control else "")


def _decoded(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text of these tokens within a longer text: decoders take away a blank that begins a text."""
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    first = str(tokenizer.convert_ids_to_tokens(ids[:1])[0])
    return f" {text}" if first.startswith("▁") and not text.startswith(" ") else text
