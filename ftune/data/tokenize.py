"""Examples to token ids and labels, cut where training begins and ends.

A text is encoded in pieces: up to where an answer begins, the answer with its stop token, and so on. So no token ever
lies across that border: the trained tokens decode to the answer and its stop token, and the tokens before it are the
ones that the model is given when it generates. Inside of a piece the tokenizer works as always.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Plain, PromptCompletion, Text
from ftune.data.mask import Locator, MaskName, with_mask
from ftune.data.template import Template, adds_bos, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is not trained."""

MID_TEXT = "\ue000"
"""Put before a piece that continues a text, and cut off again: tokenizers that put a blank before every text (Llama 2)
then put it before this character, which merges with nothing."""


class Answer(NamedTuple):
    """A trained stretch, tokens `start` to `end`.

    `text` is the answer that it stands for, stop token included; None where it is no whole answer, because
    `max_length` cut it or because the mask is `all`.
    """

    start: int
    end: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row for the model. `labels` is as long as `input_ids`: the id where it is trained, -100 elsewhere.

    The first label is always -100: nothing comes before it from which it could be predicted.
    """

    input_ids: list[int]
    labels: list[int]
    answers: list[Answer] = field(default_factory=list)
    empty_answers: int = 0
    """Answers that hold nothing but the stop token."""
    control_text: bool = False
    """Whether the text of this row holds control tokens, which were encoded as plain text."""

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return len(self.labels) - self.labels.count(IGNORED)

    def truncated(self, length: int) -> "Tokens":
        """The first `length` tokens; an answer that loses its end loses its text."""
        whole = [answer for answer in self.answers if answer.end <= length]
        cut = [Answer(start, length, None) for start, end, _ in self.answers if start < length < end]
        ids, labels = self.input_ids[:length], self.labels[:length]
        return replace(self, input_ids=ids, labels=labels, answers=whole + cut)


class _Piece(NamedTuple):
    text: str
    trained: bool
    context: str = ""


class _Plan(NamedTuple):
    """What a row will be made of."""

    pieces: list[_Piece]
    before: list[int]
    """Ids before the pieces: BOS or nothing."""
    answers: bool
    """Whether trained pieces are whole answers."""
    control_text: bool = False


class RowTokenizer:
    """Turns examples into tokens for one tokenizer, one template and one mask."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", template: Template | None = None, *, mask: MaskName = "assistant"
    ) -> None:
        """Conversations need a template; other examples never use it."""
        self._tokenizer = tokenizer
        self._template = template
        self._mask = mask
        self._bos = [int(tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
        self._locator = Locator(self._render)
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.content.strip()}
        self._control = _pattern({token.content for token in added if token.special} | self._turn_marks(names))
        self._stop = _stop_pattern(tokenizer, names)
        self._ends_in_token = re.compile(f"(?:{_pattern(names).pattern})\\Z")
        self._blank_first = _puts_blank_first(tokenizer)
        self._needs_context = self._blank_first or any(token.rstrip for token in added)

    def encode(self, example: Plain) -> Tokens:
        """One example. DataError where it cannot be masked or the tokenizer lacks what it needs."""
        (tokens,) = self.encode_batch([example])
        if isinstance(tokens, DataError):
            raise tokens
        return tokens

    def encode_batch(self, examples: Sequence[Plain]) -> list[Tokens | DataError]:
        """Many examples in one call of the tokenizer, in order; an example that cannot be encoded gives its error."""
        plans = [self._plan_or_error(example) for example in examples]
        pieces = [piece for plan in plans if isinstance(plan, _Plan) for piece in plan.pieces]
        encoded = iter(self._encode_pieces(pieces))
        return [_assembled(plan, encoded) if isinstance(plan, _Plan) else plan for plan in plans]

    def _plan_or_error(self, example: Plain) -> _Plan | DataError:
        try:
            match example:
                case Conversation():
                    return self._plan_conversation(example)
                case PromptCompletion():
                    return self._plan_raw([example.prompt, example.completion])
                case Text():
                    return self._plan_raw([example.text])
        except DataError as error:
            return error

    def _plan_raw(self, texts: list[str]) -> _Plan:
        """Raw text is the model's own language: a BOS, EOS or control token that is written in it is that token."""
        eos = self._tokenizer.eos_token
        if eos is None:
            raise DataError("this tokenizer has no end-of-sequence token; set one, for rows without a chat template")
        *prompt, completion = texts
        before = [] if self._bos and "".join(texts).startswith(self._tokenizer.bos_token) else self._bos
        ending = "" if completion.endswith(eos) else eos
        runs = [(text, self._mask == "all", False) for text in prompt] + [(completion + ending, True, False)]
        return _Plan(self._pieces(runs), before, answers=True)

    def _plan_conversation(self, example: Conversation) -> _Plan:
        found = {index for index, turn in enumerate(example.messages) if self._control.search(turn.content)}
        segments = self._locator.locate(example.messages)
        if lost := found - {segment.message for segment in segments}:
            raise DataError(
                f"turn {min(lost) + 1} holds a control token, and the chat template rewrites this turn so that the "
                "token cannot be told from the template's own; remove it, or name another template"
            )
        runs: list[tuple[str, bool, bool]] = []
        for segment in with_mask(segments, example.messages, self._mask, self._stop):
            parts = self._disarmed(segment.text) if segment.message in found else [segment.text]
            runs += [(part, segment.trained, number > 0) for number, part in enumerate(parts)]
        return _Plan(self._pieces(runs), [], self._mask != "all", bool(found))

    def _disarmed(self, text: str) -> list[str]:
        """The text cut inside of each control token, so that no part of it is one."""
        cuts = [match.start() + 1 for match in self._control.finditer(text)]
        return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _pieces(self, runs: list[tuple[str, bool, bool]]) -> list[_Piece]:
        """Runs of (text, trained, cut before it) as the fewest pieces that keep every border."""
        pieces: list[_Piece] = []
        for text, trained, cut in runs:
            if not text:
                continue
            if pieces and not cut and pieces[-1].trained == trained:
                pieces[-1] = pieces[-1]._replace(text=pieces[-1].text + text)
            else:
                pieces.append(_Piece(text, trained, self._context(pieces[-1].text) if pieces else ""))
        return pieces

    def _context(self, previous: str) -> str:
        """What must stand before a piece so that it is encoded as in the middle of its text."""
        if not self._needs_context:
            return ""
        if token := self._ends_in_token.search(previous):
            return token.group()
        return MID_TEXT if self._blank_first else ""

    def _encode_pieces(self, pieces: list[_Piece]) -> list[list[int]]:
        if not pieces:
            return []
        texts = [piece.context + piece.text for piece in pieces]
        unique = list(dict.fromkeys([*texts, *(piece.context for piece in pieces if piece.context)]))
        encoded = self._tokenizer(unique, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: dict[str, list[int]] = dict(zip(unique, encoded["input_ids"], strict=True)) | {"": []}
        return [ids[text][len(ids[piece.context]) :] for piece, text in zip(pieces, texts, strict=True)]

    def _render(self, messages: Sequence[dict[str, str]], generation_prompt: bool) -> str:
        if self._template is None:
            raise DataError("chat rows need a chat template; name one with 'model.chat_template', for example chatml")
        return render(self._tokenizer, self._template, messages, generation_prompt=generation_prompt)

    def _turn_marks(self, names: set[str]) -> set[str]:
        """The added tokens that the template opens turns with; DeepSeek does not mark its own as special."""
        if self._template is None:
            return set()
        try:
            opening = self._render([{"role": "user", "content": ""}], True)
        except DataError:
            return set()
        return {name for name in names if name in opening}


def _assembled(plan: _Plan, encoded: Iterator[list[int]]) -> Tokens:
    ids, labels, answers, empty = list(plan.before), [IGNORED] * len(plan.before), list[Answer](), 0
    for piece in plan.pieces:
        new = next(encoded)
        if piece.trained:
            answers.append(Answer(len(ids), len(ids) + len(new), piece.text if plan.answers else None))
            empty += len(new) == 1
        ids += new
        labels += new if piece.trained else [IGNORED] * len(new)
    if labels:
        labels[0] = IGNORED
    return Tokens(ids, labels, answers, empty, plan.control_text)


def _pattern(tokens: set[str]) -> re.Pattern[str]:
    """Any of these tokens, the longest first; without any, a pattern that matches nothing."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _stop_pattern(tokenizer: "PreTrainedTokenizerBase", names: set[str]) -> re.Pattern[str]:
    """The token that ends a turn: any added one but BOS; after blanks (Llama 2), EOS only."""
    eos, bos = tokenizer.eos_token, tokenizer.bos_token
    any_token = _pattern(names - {bos} | {eos} if eos else names - {bos}).pattern
    return re.compile(f"\\s*{re.escape(eos)}|{any_token}" if eos else any_token)


def _puts_blank_first(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether "a" is encoded as " a" at the beginning of a text."""
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
    return str(first).startswith(("▁", "Ġ"))
