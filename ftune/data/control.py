"""Control tokens that a row's own text holds: told from the template's, and cut so that they stay text.

Before a row is rendered, each control token in it is hidden behind a placeholder. After rendering, every control token
in sight is the template's; the hidden ones are put back in two parts, of which no tokenizer makes the token.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ftune.data.example import Conversation, Message, ToolCall

PRIVATE_USE = range(0xE100, 0xF800)
"""Characters for placeholders. The first one that a row does not hold is taken."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A conversation with placeholders for its control tokens."""

    conversation: Conversation
    tokens: list[str]
    placeholder: re.Pattern[str]

    def parts(self, text: str) -> list[str]:
        """The text with the tokens put back, cut inside of each."""
        start, *others = self.placeholder.split(text)
        parts = [start]
        for number, following in zip(others[::2], others[1::2], strict=True):
            token = self.tokens[int(number)]
            parts[-1] += token[:1]
            parts.append(token[1:] + following)
        return parts


def hide(conversation: Conversation, control: re.Pattern[str]) -> Hidden | None:
    """The conversation without what `control` matches, in contents, calls and tools; None where it matches nothing."""
    texts = [_text_of(message) for message in conversation.messages]
    if conversation.tools:
        texts.append(json.dumps(conversation.tools, ensure_ascii=False))
    if not any(map(control.search, texts)):
        return None
    used = set().union(*texts)
    mark = next(chr(code) for code in PRIVATE_USE if chr(code) not in used)
    tokens: list[str] = []

    def hidden(match: re.Match[str]) -> str:
        tokens.append(match.group())
        return f"{mark}{len(tokens) - 1}{mark}"

    def change(value: Any) -> Any:
        return _mapped(value, lambda text: control.sub(hidden, text))

    messages = tuple(_changed(message, change) for message in conversation.messages)
    changed = replace(conversation, messages=messages, tools=tuple(change(tool) for tool in conversation.tools))
    return Hidden(changed, tokens, re.compile(f"{mark}(\\d+){mark}"))


def _text_of(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    calls = ((call.name, call.arguments) for call in message.tool_calls)
    return message.content + "".join(json.dumps(call, ensure_ascii=False) for call in calls)


def _changed(message: Message, change: Callable[[Any], Any]) -> Message:
    calls = tuple(ToolCall(change(call.name), change(call.arguments)) for call in message.tool_calls)
    return replace(message, content=change(message.content), tool_calls=calls)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    return value
