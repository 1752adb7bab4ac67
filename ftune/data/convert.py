"""What ftune understood, as clean rows: every example becomes one JSON object that ftune reads back as an equal one."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import storage_errors
from ftune.data.example import Answered, Conversation, Example, Feedback, Message, Preference, PromptCompletion, Text

Row = dict[str, Any]


def to_messages(example: Example) -> Row:
    """The example in OpenAI's layout where it is a chat, and as `prompt`, `completion` or `text` where it is raw.

    A pair has `chosen` and `rejected`: after a list of turns under `prompt`, or as whole texts where it is raw. Read
    back, every pair of chats gets its longest common beginning as its prompt; one without any cannot be read back.
    Answers that are context only (`prompt_turns`) have `"weight": 0`.
    """
    match example:
        case Text(text):
            return {"text": text}
        case Feedback():
            return {**_answered(example.example), "label": example.good}
        case Preference():
            margin = {} if example.margin is None else {"margin": example.margin}
            return {**_pair(example.chosen, example.rejected), **margin}
        case Conversation() if example.prompt_turns:
            row = _answered(example)
            for turn in row["messages"][: example.prompt_turns]:
                turn |= {"weight": 0} if turn["role"] == "assistant" else {}  # OpenAI's word for context only
            return row
        case _:
            return _answered(example)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines in UTF-8 and return their number.

    The file appears under its name when it is whole, and replaces what was there. Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                for count, row in enumerate(rows, 1):  # noqa: B007 - the last one is the number of rows
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return count


def _answered(example: Answered) -> Row:
    if isinstance(example, PromptCompletion):
        return {"prompt": example.prompt, "completion": example.completion}
    return {"messages": _turns(example.messages), **_tools(example)}


def _pair(chosen: Answered, rejected: Answered) -> Row:
    if isinstance(chosen, Conversation) and isinstance(rejected, Conversation):
        start = chosen.prompt_turns
        prompt = {"prompt": _turns(chosen.messages[:start])} if start else {}
        sides = {"chosen": _turns(chosen.messages[start:]), "rejected": _turns(rejected.messages[start:])}
        return {**prompt, **sides, **_tools(chosen)}
    return {"chosen": _whole(chosen), "rejected": _whole(rejected)}


def _whole(side: Answered) -> str | list[Row]:
    return side.prompt + side.completion if isinstance(side, PromptCompletion) else _turns(side.messages)


def _turns(messages: Sequence[Message]) -> list[Row]:
    return [{"role": message.role, "content": message.content, **_calls(message)} for message in messages]


def _calls(message: Message) -> Row:
    """Calls as OpenAI's API has them: arguments are JSON text."""
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": _json_text(call.arguments)}}
        for call in message.tool_calls
    ]
    return {"tool_calls": calls} if calls else {}


def _tools(example: Conversation) -> Row:
    return {"tools": [dict(tool) for tool in example.tools]} if example.tools else {}


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), ensure_ascii=False)
