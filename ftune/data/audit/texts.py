"""The texts of an example, for everything that looks at text."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ftune.data.example import ROLES, Conversation, Example, Feedback, Message, Preference, PromptCompletion, Text


def _mark(name: str) -> str:
    return f"\x1e{name}\x1f"


MARKS = {role: _mark(role) for role in ROLES}
"""Stands before a turn: equal texts under other roles are other rows. ASCII, for which Python is faster."""


class Texts(NamedTuple):
    """The texts of one example."""

    prompt: str
    """What stands before the last answer, roles marked; empty for a document."""
    answer: str
    """The last answer (of a pair the chosen one), or the document."""
    spoken: str
    """What users, assistants and tools say: without system turns and tool descriptions, which many rows share."""
    everything: str
    """All texts, one after another."""
    marked: str
    """All texts with roles marked: equal for equal examples only."""


def texts_of(example: Example) -> Texts:
    """The texts of any example."""
    match example:
        case Conversation():
            return _conversation(example)
        case PromptCompletion(prompt, completion):
            both = f"{prompt}\n{completion}"
            return Texts(prompt, completion, both, both, f"{prompt}{_mark('')}{completion}")
        case Text(text):
            return Texts("", text, text, text, text)
        case Preference():
            return _pair(texts_of(example.chosen), texts_of(example.rejected))
        case Feedback():
            texts = texts_of(example.example)
            return texts._replace(marked=f"{texts.marked}{_mark('good' if example.good else 'bad')}")


def _conversation(example: Conversation) -> Texts:
    said = [_said(message) for message in example.messages]
    marked = [MARKS[message.role] + text for message, text in zip(example.messages, said, strict=True)]
    spoken = [text for message, text in zip(example.messages, said, strict=True) if message.role != "system"]
    answered = bool(example.messages) and example.messages[-1].role == "assistant"
    prompt, answer = ("".join(marked[:-1]), said[-1]) if answered else ("".join(marked), "")
    tools = [_json(tool) for tool in example.tools]
    described = [_mark("tools") + tool for tool in tools]
    return Texts(prompt, answer, "\n".join(spoken), "\n".join(said + tools), "".join(marked + described))


def _pair(chosen: Texts, rejected: Texts) -> Texts:
    return Texts(
        chosen.prompt,
        chosen.answer,
        f"{chosen.spoken}\n{rejected.answer}",
        f"{chosen.everything}\n{rejected.everything}",
        f"{chosen.marked}{_mark('rejected')}{rejected.marked}",
    )


def _said(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    calls = [_json({"name": call.name, "arguments": dict(call.arguments)}) for call in message.tool_calls]
    return "\n".join([message.content, *calls])


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
