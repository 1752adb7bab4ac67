"""Tools written as plain text, for chat templates that have no place for them: one form, whatever the template.

- What tools there are stands in the system turn: a sentence, each description as JSON on a line, a sentence.
- A call stands in the assistant's turn, after its text: `<tool_call>`, `{"name": ..., "arguments": {...}}` and
  `</tool_call>`, each on a line of its own. This is the form of the Hermes and Qwen2.5 templates.
- What a tool gave back is a turn of role `tool`; where the template knows no such role, it stands in a user turn
  between `<tool_response>` and `</tool_response>`, neighbouring ones in one turn.

The shipped template `chatml` renders the same text by itself.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from ftune.data.example import Conversation, Message, ToolCall

BEFORE_TOOLS = "You may call these functions, described as JSON, one a line:"
AFTER_TOOLS = (
    'To call one, write <tool_call>, then on the next line {"name": ..., "arguments": {...}}, then on the next line '
    "</tool_call>."
)


def calls_as_text(conversation: Conversation) -> Conversation:
    """The conversation without tools and calls: both are text of its turns. Turns of role `tool` stay."""
    messages = tuple(_with_calls_as_text(message) for message in conversation.messages)
    bare = replace(conversation, messages=messages, tools=())
    return _with_system_text(bare, _described(conversation.tools)) if conversation.tools else bare


def outputs_as_user_turns(conversation: Conversation) -> Conversation:
    """The conversation with user turns in place of those of role `tool`; neighbouring ones become one."""
    numbered = enumerate(conversation.messages)
    messages, prompt_turns = list[Message](), 0
    for is_output, group in groupby(numbered, key=lambda pair: pair[1].role == "tool"):
        turns = list(group)
        if is_output:
            responses = (f"<tool_response>\n{message.content}\n</tool_response>" for _, message in turns)
            turns = [(turns[0][0], Message("user", "\n".join(responses)))]
        messages += [message for _, message in turns]
        prompt_turns += sum(index < conversation.prompt_turns for index, _ in turns)
    return replace(conversation, messages=tuple(messages), prompt_turns=prompt_turns)


def _with_calls_as_text(message: Message) -> Message:
    parts = [message.content] * bool(message.content) + [_written(call) for call in message.tool_calls]
    return replace(message, content="\n".join(parts), tool_calls=())


def _written(call: ToolCall) -> str:
    return f"<tool_call>\n{_json({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"


def _described(tools: tuple[Mapping[str, Any], ...]) -> str:
    return "\n".join([BEFORE_TOOLS, *map(_json, tools), AFTER_TOOLS])


def _with_system_text(conversation: Conversation, text: str) -> Conversation:
    """`text` at the end of the system turn, or as a new one."""
    first, *others = conversation.messages
    if first.role == "system":
        system = replace(first, content=f"{first.content}\n\n{text}" if first.content else text)
        return replace(conversation, messages=(system, *others))
    shifted = conversation.prompt_turns + bool(conversation.prompt_turns)
    return replace(conversation, messages=(Message("system", text), first, *others), prompt_turns=shifted)


def _json(value: Mapping[str, Any]) -> str:
    """As chat templates write JSON: keys in the order given, characters as they are."""
    return json.dumps(value, ensure_ascii=False)
