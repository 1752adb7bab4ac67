"""Examples to token ids and labels, cut where training begins and ends.

A text is encoded in pieces: up to where an answer begins, the answer with its stop token, and so on. So the trained
tokens decode to the answer and its stop token, and the tokens before it are the ones that the model is given when it
generates.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ftune.core.errors import DataError
from ftune.data.control import hide
from ftune.data.example import Answered, Conversation, Plain, PromptCompletion, Text
from ftune.data.mask import Locator, MaskName, with_mask
from ftune.data.pieces import Piece, PieceEncoder, Run, any_of
from ftune.data.template import Template, Tools, Turn, adds_bos, as_turn, render
from ftune.data.time_limit import time_limit
from ftune.data.tool_support import ToolSupport, tool_support
from ftune.data.tools import calls_as_text, outputs_as_user_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is not trained."""

RENDER_SECONDS = 10.0
"""Processor time after which a template is given up that renders one turn. Usually it takes less than a millisecond."""


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
    tools_as_text: bool = False
    """Whether tools, calls or outputs were written as text, because the template has no place for them."""

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


class _Plan(NamedTuple):
    """What a row will be made of."""

    pieces: list[Piece]
    before: list[int]
    """Ids before the pieces: BOS or nothing."""
    answers: bool
    """Whether trained pieces are whole answers."""
    control_text: bool = False
    tools_as_text: bool = False


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
        self._encoder = PieceEncoder(tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.content.strip()}
        self._control = any_of({token.content for token in added if token.special} | self._turn_marks(names))
        self._stop = _stop_pattern(tokenizer, names)
        self._locator = Locator(self._render, self._stop)

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
        encoded = iter(self._encoder.encode(pieces))
        return [_assembled(plan, encoded) if isinstance(plan, _Plan) else plan for plan in plans]

    def prompt_ids(self, example: Answered) -> list[int]:
        """What the model is given so that it writes the last answer, or the next one where none is there yet.

        These ids and the trained ones under the mask `last` are the beginning of the encoded example, unless the
        template puts more before an answer than its generation prompt has: Qwen3 renders an empty thought there, so
        after these ids such a model thinks for itself. DataError as of `encode`.
        """
        match example:
            case PromptCompletion():
                runs, before = [Run(example.prompt, trained=False)], self._before(example.prompt + example.completion)
            case Conversation():
                unanswered = example.messages[-1].role != "assistant"
                messages = example.messages if unanswered else example.messages[:-1]
                if not messages:
                    raise DataError("the conversation begins with its answer; nothing comes before it")
                fitted, _ = self._fitted(replace(example, messages=messages))
                runs, before = self._prompt_runs(fitted), []
        return before + [number for ids in self._encoder.encode(self._encoder.pieces(runs)) for number in ids]

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
        ending = "" if completion.endswith(eos) else eos
        runs = [Run(text, self._mask == "all") for text in prompt] + [Run(completion + ending, trained=True)]
        return _Plan(self._encoder.pieces(runs), self._before("".join(texts)), answers=True)

    def _before(self, text: str) -> list[int]:
        """BOS, where the tokenizer puts one before a text and this text does not begin with it."""
        return [] if self._bos and text.startswith(self._tokenizer.bos_token) else self._bos

    def _plan_conversation(self, example: Conversation) -> _Plan:
        fitted, as_text = self._fitted(example)
        hidden = hide(fitted, self._control)
        shown = hidden.conversation if hidden else fitted
        segments = with_mask(self._locator.locate(shown), shown, self._mask, self._stop)
        if hidden:
            runs = [
                Run(part, segment.trained, cut=number > 0)
                for segment in segments
                for number, part in enumerate(hidden.parts(segment.text))
            ]
            self._check_shown(runs, fitted, generation_prompt=False)
        else:
            runs = [Run(segment.text, segment.trained) for segment in segments]
        return _Plan(self._encoder.pieces(runs), [], self._mask != "all", hidden is not None, as_text)

    def _prompt_runs(self, example: Conversation) -> list[Run]:
        """The rendering with the generation prompt, cut inside of the row's own control tokens."""
        hidden = hide(example, self._control)
        text = self._rendering(hidden.conversation if hidden else example, generation_prompt=True)
        if not hidden:
            return [Run(text, trained=False)]
        runs = [Run(part, trained=False, cut=number > 0) for number, part in enumerate(hidden.parts(text))]
        self._check_shown(runs, example, generation_prompt=True)
        return runs

    def _check_shown(self, runs: list[Run], example: Conversation, *, generation_prompt: bool) -> None:
        """Prove that hiding control tokens from the template changed nothing else."""
        if "".join(run.text for run in runs) != self._rendering(example, generation_prompt=generation_prompt):
            raise DataError(
                "the text of this row holds a control token, and the chat template rewrites it so that the token "
                "cannot be told from the template's own; remove it, or name another template"
            )

    def _fitted(self, example: Conversation) -> tuple[Conversation, bool]:
        """The conversation as the template can render all of it, and whether something had to become text for that."""
        fitted = example
        if example.tools or any(message.tool_calls for message in example.messages):
            fitted = fitted if self._support.calls else calls_as_text(fitted)
            self._support.check(fitted)
        if any(message.role == "tool" for message in example.messages) and not self._support.outputs:
            fitted = outputs_as_user_turns(fitted)
        return fitted, fitted is not example

    @cached_property
    def _support(self) -> ToolSupport:
        return tool_support(self._render)

    def _rendering(self, example: Conversation, *, generation_prompt: bool) -> str:
        return self._render([as_turn(message) for message in example.messages], example.tools, generation_prompt)

    def _render(self, turns: Sequence[Turn], tools: Tools, generation_prompt: bool) -> str:
        if self._template is None:
            raise DataError("chat rows need a chat template; name one with 'model.chat_template', for example chatml")
        return render(self._tokenizer, self._template, turns, tools=tools, generation_prompt=generation_prompt)

    def _turn_marks(self, names: set[str]) -> set[str]:
        """The added tokens that the template opens turns with; DeepSeek does not mark its own as special.

        This is the first rendering, so here a template that never comes to an end is found out.
        """
        if self._template is None:
            return set()
        try:
            with time_limit(RENDER_SECONDS):
                opening = self._render([{"role": "user", "content": ""}], (), True)
        except TimeoutError:
            raise DataError(
                f"the chat template ({self._template.origin}) does not come to an end within {RENDER_SECONDS:g} "
                "seconds; name another one with 'model.chat_template'"
            ) from None
        except DataError:
            return set()
        return {name for name in names if name in opening}


def _assembled(plan: _Plan, encoded: Iterator[list[int]]) -> Tokens:
    ids, labels, answers = list(plan.before), [IGNORED] * len(plan.before), list[Answer]()
    for piece in plan.pieces:
        new = next(encoded)
        if piece.trained:
            start, text = len(ids), piece.text
            if piece.cut and answers and answers[-1].end == start:  # the rest of an answer that holds a control token
                start, text = answers[-1].start, (answers.pop().text or "") + text
            answers.append(Answer(start, len(ids) + len(new), text if plan.answers else None))
        ids += new
        labels += new if piece.trained else [IGNORED] * len(new)
    if labels:
        labels[0] = IGNORED
    empty = sum(answer.end - answer.start == 1 for answer in answers)
    return Tokens(ids, labels, answers, empty, plan.control_text, plan.tools_as_text)


def _stop_pattern(tokenizer: "PreTrainedTokenizerBase", names: set[str]) -> re.Pattern[str]:
    """The token that ends a turn: any added one but BOS; after blanks (Llama 2), EOS only."""
    eos, bos = tokenizer.eos_token, tokenizer.bos_token
    any_token = any_of(names - {bos} | {eos} if eos else names - {bos}).pattern
    return re.compile(f"\\s*{re.escape(eos)}|{any_token}" if eos else any_token)
