"""Piped input: a prompt a line, a reply a line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ftune.core.errors import DataError
from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.data.formats.base import described
from ftune.data.formats.messages import MessagesFormat
from ftune.data.formats.prompt import PromptFormat
from ftune.recipes.runs.chat_reply import Reply
from ftune.recipes.runs.chat_turns import Chat

PLACE = "<stdin>"


@dataclass(frozen=True, slots=True)
class Line:
    """One prompt."""

    place: str
    prompt: str
    """What is repeated beside the reply: of a conversation the last thing that the user says."""
    asked: Answered


def read_lines(lines: Iterable[bytes], chat: Chat) -> Iterator[Line]:
    """The prompts of the lines that are not empty: all of them texts, or all JSON objects, as the first one is.

    An object has a `prompt` or `messages`, as rows have; a last answer in it is left out. Raises DataError with the
    number of the line.
    """
    as_json = None
    for number, line in enumerate(lines, 1):
        place = f"{PLACE}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 (byte {error.start})") from None
        if not text:
            continue
        value = _object(text)
        as_json = value is not None if as_json is None else as_json
        if not as_json:
            yield Line(place, text, chat.asked([Message("user", text)]))
        elif value is None:
            raise DataError(f"{place}: no JSON object, as the first line is one")
        else:
            yield _from_object(value, place, chat)


def reply_to_lines(lines: Iterable[bytes], chat: Chat, seed: int | None) -> Iterator[tuple[Line, Reply]]:
    """The reply to each prompt. With a `seed` it does not depend on the other lines. Raises DataError as above."""
    for line in read_lines(lines, chat):
        try:
            reply = chat.answer(line.asked, _untold, chat.draw_seed() if seed is None else seed)
        except DataError as error:
            raise DataError(f"{line.place}: {error}") from None
        if reply.stop == "interrupted":
            raise KeyboardInterrupt
        yield line, reply


def as_json(prompt: str, reply: Reply) -> str:
    """A reply with its facts, on one line."""
    facts = {"prompt": prompt, "reply": reply.text, "tokens": reply.tokens, "seconds": round(reply.seconds, 3)}
    return json.dumps({**facts, "stop": reply.stop}, ensure_ascii=False)


def as_line(reply: Reply) -> str:
    """The text on one line: between its lines stand a backslash and an n."""
    return "\\n".join(reply.text.splitlines())


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _from_object(value: dict[str, Any], place: str, chat: Chat) -> Line:
    try:
        example = _example(value, plain=chat.opened.template is None)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if isinstance(example, PromptCompletion):
        return Line(place, example.prompt, example)
    asked = _question(example, chat.system)
    last = next((message.content for message in reversed(asked.messages) if message.role == "user"), "")
    return Line(place, last, asked)


def _example(value: dict[str, Any], *, plain: bool) -> Answered:
    """What a row asks. DataError where it asks nothing."""
    if "messages" not in value and "prompt" not in value:
        raise DataError(f"{described(value)}, where a 'prompt' or 'messages' are needed")
    layout = MessagesFormat() if "messages" in value else PromptFormat(raw=plain)
    example = layout.to_example(value)
    if isinstance(example, PromptCompletion) or (isinstance(example, Conversation) and not plain):
        return example
    raise DataError("a conversation needs a chat template, and texts are continued as they are; give a 'prompt'")


def _question(given: Conversation, system: str) -> Conversation:
    """Without the answer at its end, and with the system text of the chat where it has none."""
    messages = given.messages[:-1] if given.messages[-1].role == "assistant" else given.messages
    if system and messages[:1] and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return replace(given, messages=messages)


def _untold(text: str) -> None:
    """Lines are written when they are whole."""
