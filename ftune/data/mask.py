"""Which part of a rendered conversation is whose: proved from the template's behaviour, never guessed from its text.

The template is rendered with a sentinel in place of every content. What stands between the sentinels is the template's
own text, and the real rendering must be exactly that text with the contents put back (as they are, or stripped). Where
that fails (Qwen3 and DeepSeek-R1 rewrite what is before `</think>`), each turn is found by itself: with a sentinel in
this one turn only, what comes before and after it must be the beginning and the end of the real rendering. A turn that
can be found in neither way is an error, not a guess.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ftune.core.errors import DataError
from ftune.data.example import Message

MaskName: TypeAlias = Literal["assistant", "completion", "last", "all"]
"""What is trained. Of chats: `assistant` every assistant turn, `completion` and `last` the last one, `all` every token.

Of prompt/completion rows, `all` trains every token and every other mask the completion; text rows are trained whole.
"""

Skeleton: TypeAlias = list[str | int]
"""A rendering in parts: the template's own text, and the indexes of the messages whose contents stand between."""

SENTINEL = "\uf8f0{}\uf8f1"
"""Stands for a content: private-use characters, no blanks to strip, nothing that a template looks for."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendering: the content of message number `message`, or the template's own text (None)."""

    text: str
    message: int | None = None
    trained: bool = False


class Locator:
    """Finds the contents of conversations in what one template renders of them."""

    def __init__(self, render: Callable[[Sequence[dict[str, str]], bool], str]) -> None:
        """`render(messages, generation_prompt)` applies the template."""
        self._render = render
        self._skeletons: dict[tuple[str, ...], Skeleton] = {}

    def locate(self, messages: Sequence[Message]) -> list[Segment]:
        """The rendering in segments whose texts, put together, are exactly the rendering.

        Every assistant content is among them. Other contents are where they could be found. DataError names the turn
        that could not be.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self._render(turns, False)
        segments = _filled(self._skeleton(turns), messages, rendered)
        return segments or self._turn_by_turn(turns, rendered)

    def _skeleton(self, turns: list[dict[str, str]]) -> Skeleton:
        """The template's own text around these roles; it depends on nothing but the roles, so it is kept."""
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._skeletons:
            sentinels = [{"role": role, "content": SENTINEL.format(index)} for index, role in enumerate(roles)]
            parts = re.split(SENTINEL.format(r"(\d+)"), self._render(sentinels, False))
            self._skeletons[roles] = [int(part) if index % 2 else part for index, part in enumerate(parts)]
        return self._skeletons[roles]

    def _turn_by_turn(self, turns: list[dict[str, str]], rendered: str) -> list[Segment]:
        spans = []
        for index, turn in enumerate(turns):
            span = self._span(turns, index, rendered)
            if span is None and turn["role"] == "assistant":
                raise DataError(
                    f"turn {index + 1} (assistant): the chat template rewrites this turn so that its text cannot be "
                    "told from the template's own; name another template with 'model.chat_template'"
                )
            if span is not None:
                spans.append((*span, index))
        return _cut(rendered, sorted(spans))

    def _span(self, turns: list[dict[str, str]], index: int, rendered: str) -> tuple[int, int] | None:
        """Where turn `index` stands in `rendered`: after the template's text before it, before the text after it.

        An answer may also begin where the generation prompt ends: the model then writes all that follows.
        """
        marked = [*turns[:index], {**turns[index], "content": SENTINEL.format("")}, *turns[index + 1 :]]
        before, found, after = self._render(marked, False).partition(SENTINEL.format(""))
        if not found or SENTINEL.format("") in after or not rendered.endswith(after):
            return None
        if not rendered.startswith(before) and turns[index]["role"] == "assistant":
            before = self._render(turns[:index], True)
        end = len(rendered) - len(after)
        return (len(before), end) if rendered.startswith(before) and len(before) <= end else None


def _filled(skeleton: Skeleton, messages: Sequence[Message], rendered: str) -> list[Segment] | None:
    """The skeleton with the contents put back, if that is what was rendered and no answer is missing or doubled."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    slots = sorted(part for part in skeleton if isinstance(part, int) and messages[part].role == "assistant")
    if slots != answers:
        return None
    segments, position = [], 0
    for number, part in enumerate(skeleton):
        following = skeleton[number + 1] if isinstance(part, int) else ""
        choices = _variants(messages[part].content) if isinstance(part, int) else [part]
        text = next((text for text in choices if rendered.startswith(f"{text}{following}", position)), None)
        if text is None:
            return None
        segments.append(Segment(text, part if isinstance(part, int) else None))
        position += len(text)
    return segments if position == len(rendered) else None


def _variants(content: str) -> list[str]:
    """The content as it is, and as templates strip it."""
    if content == content.strip():
        return [content]
    return [content, content.strip(), content.lstrip("\n"), content.strip("\n"), content.lstrip(), content.rstrip()]


def _cut(rendered: str, spans: list[tuple[int, int, int]]) -> list[Segment]:
    segments, position = [], 0
    for start, end, index in spans:
        if start < position:
            raise DataError(f"turn {index + 1}: the chat template mixes this turn with the one before it")
        segments += [Segment(rendered[position:start]), Segment(rendered[start:end], index)]
        position = end
    return [*segments, Segment(rendered[position:])]


def with_mask(
    segments: Sequence[Segment], messages: Sequence[Message], mask: MaskName, stop: re.Pattern[str]
) -> list[Segment]:
    """The segments with the trained ones marked; the stop token of each trained answer is a segment of its own.

    `stop` matches an end-of-turn token at the beginning of the template's text after an answer. An answer without one
    is an error: the model would never learn to stop.
    """
    if mask == "all":
        return [replace(segment, trained=True) for segment in segments]
    answers = [segment.message for segment in segments if _is_answer(segment, messages)]
    wanted = set(answers if mask == "assistant" else answers[-1:])
    marked: list[Segment] = []
    for segment in segments:
        previous = marked[-1] if marked else None
        if previous and previous.message in wanted and previous.trained and segment.message is None:
            end = stop.match(segment.text)
            if not end:
                raise DataError(_never_stops(previous.message, segment.text))
            marked += [Segment(end.group(), trained=True), Segment(segment.text[end.end() :])]
        else:
            marked.append(replace(segment, trained=segment.message in wanted))
    return marked


def _is_answer(segment: Segment, messages: Sequence[Message]) -> bool:
    return segment.message is not None and messages[segment.message].role == "assistant"


def _never_stops(message: int | None, after: str) -> str:
    found = f"{after[:20]!r}, which is no single token of this tokenizer" if after else "nothing"
    return (
        f"turn {(message or 0) + 1} (assistant): the chat template ends it with {found}: the model would never learn "
        "to stop; name another template with 'model.chat_template' (chatml fits every tokenizer)"
    )
