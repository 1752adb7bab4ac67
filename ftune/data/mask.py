"""Which part of a rendered conversation is whose: proved from the template's behaviour, never guessed from its text.

The template is rendered with a sentinel in place of every content. What stands between the sentinels is the template's
own text, and the real rendering must be exactly that text with the contents put back (as they are, or stripped). Where
that fails (Qwen3 and DeepSeek-R1 rewrite what is before `</think>`), each answer is found by itself: with a sentinel in
this one turn only, what comes before and after it must be the beginning and the end of the real rendering. So is each
answer that calls tools, with the sentinel in place of text and calls: what the model writes is what stands there. If
the template surrounds a call in another way than a text, the answer begins where the generation prompt ends, and ends
before the stop token of the rendering that ends with it. An answer that can be found in no way is an error, not a
guess.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message
from ftune.data.template import Render, Tools, Turn, as_turn

MaskName: TypeAlias = Literal["assistant", "completion", "last", "all"]
"""What is trained. Of chats: `assistant` every assistant turn, `completion` and `last` the last one, `all` every token.

Of prompt/completion rows, `all` trains every token and every other mask the completion; text rows are trained whole.
"""

Skeleton: TypeAlias = list[str | int]
"""A rendering in parts: the template's own text, and the indexes of the messages whose contents stand between."""

SENTINEL = "\uf8f0{}\uf8f1"
"""Stands for a content: private-use characters, no blanks to strip, nothing that a template looks for."""


class Segment(NamedTuple):
    """A stretch of a rendering: the content of message number `message`, or the template's own text (None)."""

    text: str
    message: int | None = None
    trained: bool = False


class Locator:
    """Finds the answers of conversations in what one template renders of them."""

    def __init__(self, render: Render, stop: re.Pattern[str]) -> None:
        """`render` applies the template; `stop` matches a token that ends a turn."""
        self._render = render
        self._stop = stop
        self._skeletons: dict[tuple[str, ...], Skeleton] = {}

    def locate(self, conversation: Conversation) -> list[Segment]:
        """The rendering in segments whose texts, put together, are exactly the rendering.

        Every answer is among them; other contents may be part of what surrounds them. DataError names the answer that
        could not be found.
        """
        turns, tools = [as_turn(message) for message in conversation.messages], conversation.tools
        rendered = self._render(turns, tools, False)
        if not any(message.tool_calls for message in conversation.messages):
            segments = _filled(self._skeleton(turns, tools), conversation.messages, rendered)
            if segments:
                return segments
        return self._turn_by_turn(turns, tools, rendered)

    def _skeleton(self, turns: list[Turn], tools: Tools) -> Skeleton:
        """The template's own text around these roles; without tools it depends on nothing else, so it is kept."""
        roles = tuple(turn["role"] for turn in turns)
        if roles in self._skeletons and not tools:
            return self._skeletons[roles]
        sentinels = [{"role": role, "content": SENTINEL.format(index)} for index, role in enumerate(roles)]
        parts = re.split(SENTINEL.format(r"(\d+)"), self._render(sentinels, tools, False))
        skeleton: Skeleton = [int(part) if index % 2 else part for index, part in enumerate(parts)]
        if not tools:
            self._skeletons[roles] = skeleton
        return skeleton

    def _turn_by_turn(self, turns: list[Turn], tools: Tools, rendered: str) -> list[Segment]:
        spans = []
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            span = self._span(turns, index, tools, rendered)
            if span is None:
                raise DataError(
                    f"turn {index + 1} (assistant): the chat template rewrites this turn so that its text cannot be "
                    "told from the template's own; name another template with 'model.chat_template'"
                )
            spans.append((*span, index))
        return _cut(rendered, spans)

    def _span(self, turns: list[Turn], index: int, tools: Tools, rendered: str) -> tuple[int, int] | None:
        """Where answer `index` stands in `rendered`: after the template's text before it, before the text after it.

        It may also begin where the generation prompt ends: the model then writes all that follows.
        """
        calls = "tool_calls" in turns[index]
        around = self._around(turns, index, tools)
        if around is None and not calls:
            return None
        before, after = around or (None, None)
        if before is None or not rendered.startswith(before):
            before = self._rendered(turns[:index], tools, generation_prompt=True)
        if after is not None and rendered.endswith(after):
            end: int | None = len(rendered) - len(after)
        else:
            end = self._end_of(turns[: index + 1], tools, rendered) if calls else None
        if before is None or end is None or not rendered.startswith(before) or len(before) > end:
            return None
        return len(before), end

    def _around(self, turns: list[Turn], index: int, tools: Tools) -> tuple[str, str] | None:
        """What the template renders before and after a sentinel in turn `index`; None where it rewrites even that."""
        sentinel = {"role": "assistant", "content": SENTINEL.format("")}
        text = self._rendered([*turns[:index], sentinel, *turns[index + 1 :]], tools) or ""
        before, *after = text.split(SENTINEL.format(""))
        return (before, after[0]) if len(after) == 1 else None

    def _end_of(self, turns: list[Turn], tools: Tools, rendered: str) -> int | None:
        """Where the stop token stands with which the rendering of these turns ends."""
        text = self._rendered(turns, tools)
        if text is None or not rendered.startswith(text):
            return None
        stops = [match for match in self._stop.finditer(text) if not text[match.end() :].strip()]
        return stops[0].start() if stops else len(text)

    def _rendered(self, turns: list[Turn], tools: Tools, *, generation_prompt: bool = False) -> str | None:
        """A rendering that need not be there: None where the template refuses such a conversation."""
        try:
            return self._render(turns, tools, generation_prompt)
        except DataError:
            return None


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
    segments: Sequence[Segment], conversation: Conversation, mask: MaskName, stop: re.Pattern[str]
) -> list[Segment]:
    """The segments with the trained ones marked; the stop token of each trained answer is a segment of its own.

    `stop` matches an end-of-turn token at the beginning of the template's text after an answer. An answer without one
    is an error: the model would never learn to stop.
    """
    if mask == "all":
        return [segment._replace(trained=True) for segment in segments]
    answers = [segment.message for segment in segments if _is_answer(segment, conversation)]
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
            marked.append(segment._replace(trained=segment.message in wanted))
    return marked


def _is_answer(segment: Segment, conversation: Conversation) -> bool:
    """Whether the segment is an assistant's content behind the turns that are context only."""
    number = segment.message
    return (
        number is not None and number >= conversation.prompt_turns and conversation.messages[number].role == "assistant"
    )


def _never_stops(message: int | None, after: str) -> str:
    found = f"{after[:20]!r}, which is no single token of this tokenizer" if after else "nothing"
    return (
        f"turn {(message or 0) + 1} (assistant): the chat template ends it with {found}: the model would never learn "
        "to stop; name another template with 'model.chat_template' (chatml fits every tokenizer)"
    )
