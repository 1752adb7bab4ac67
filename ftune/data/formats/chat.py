"""Turns of chat rows: one reader for every layout that holds a list of turns."""

from collections.abc import Sequence
from typing import cast

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Answered, Conversation, Message, PromptCompletion, Role, ToolCall
from ftune.data.formats.base import SYSTEM, Values, checked_text, described, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.tools import calls_of, tools_of

LISTS = ("messages", "conversations", "conversation", "turns", "dialog", "items", "contents")
"""Names under which rows hold a list of turns."""

SPEAKERS = ("role", "from")
"""How turns name who speaks: OpenAI's way and ShareGPT's."""

SAID = ("content", "value", "text", "parts", "message")
"""Under which keys turns hold what is said: OpenAI's, ShareGPT's, OpenAssistant's, Gemini's and Cohere's."""

NOT_TRAINED = ("weight", "loss", "train", "training")
"""Marks of a turn that is not to be trained where they are 0 or false: OpenAI's, ms-swift's, Axolotl's."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Where turns hold what a model thinks before it answers."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")

CALL = "function_call"
"""ShareGPT's role of an assistant turn whose text is a tool call as JSON."""

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    CALL: "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
"""The roles that are met, and ours; capitals do not matter."""


def turns_in(value: object) -> list[object] | None:
    """The list of turns that a value is, or holds as text; one turn is a list of one. None where it is no such thing.

    Only the first turn is looked at, so that a list with a damaged turn is still a list of turns.
    """
    found = parsed(value)
    turns = [found] if isinstance(found, dict) else found
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return turns if any(key in turns[0] for key in SPEAKERS) else None
    return None


def list_name(row: Values, usual: str) -> str | None:
    """The name under which this row has its turns; `usual` where it has that name, but no turns anywhere."""
    return next((name for name in LISTS if turns_in(row.get(name))), usual if usual in row else None)


def speaks_by(row: Values, usual: str, role: str) -> bool:
    """Whether the first turn of this row names its speaker under `role`, or there is no turn to tell it from."""
    turns = turns_in(row.get(list_name(row, usual) or usual))
    return turns is None or role in cast(dict[str, object], turns[0])


def conversation(row: Values, key: str) -> Conversation:
    """The list under `key` as a conversation, with the row's tools and, before it, its system text."""
    turns = turns_of(row, key)
    messages = read_turns(turns, key)
    whole = opened(row, messages)
    context = _not_trained(turns, messages, key)
    return Conversation(whole, tools_of(row), context and context + len(whole) - len(messages))


def prompt_and_completion(row: Values) -> Answered:
    """Texts under `prompt` and `completion` as they stand, or two lists of turns as one conversation."""
    prompt, completion = (turns_in(row.get(key)) for key in ("prompt", "completion"))
    if prompt is None or completion is None:
        prompt_text, completion_text = text_of(row, "prompt"), text_of(row, "completion")
        if any(row.get(name) for name in SYSTEM):
            raise DataError(
                "the row has a system text, and raw text has no place for it; make it a chat with "
                "'columns: {user: prompt, assistant: completion}'"
            )
        return PromptCompletion(prompt_text, completion_text)
    before, after = opened(row, read_turns(prompt, "prompt")), read_turns(completion, "completion")
    return Conversation((*before, *after), tools_of(row), prompt_turns=len(before))


def opened(row: Values, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns after the row's system text, where it has one. DataError for a row with images or the like."""
    for name in MEDIA:
        if row.get(name):
            raise DataError(
                f"the row has '{name}', and only text can be trained on; 'data.on_bad_row: drop' leaves such rows out"
            )
    system = next((text for name in SYSTEM if (text := _system_text(row, name))), "")
    if not system or messages[:1] == (Message("system", system),):
        return messages
    if messages and messages[0].role == "system":
        raise DataError("the row has a system text and its first turn is another; remove one of them")
    return (Message("system", system), *messages)


def _system_text(row: Values, name: str) -> str:
    """The system text, which may be in parts as a turn's content; Gemini's is a whole turn."""
    value = row.get(name)
    if isinstance(value, dict):
        return _content(value, "parts")
    return _content(row, name) if value else ""


def turns_of(row: Values, key: str) -> list[object]:
    """The list under `key`."""
    if key not in row:
        raise DataError(f"'{key}' is missing{did_you_mean(key, row)}")
    turns = parsed(row[key])
    if not isinstance(turns, list):
        raise DataError(f"'{key}' is {described(turns)}; it must be a list of turns, each with a role and a text")
    if not turns:
        raise DataError(f"'{key}' is empty; a conversation needs at least one turn")
    return turns


def _not_trained(turns: Sequence[object], messages: Sequence[Message], key: str) -> int:
    """How many turns at the beginning are context only, because their answers are marked as not to be trained.

    DataError where an answer that is to be trained stands before one that is not.
    """
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    marked = [index for index in answers if (turn := turns[index]) and isinstance(turn, dict) and _is_off(turn)]
    if not marked:
        return 0
    trained = [index for index in answers if index < marked[-1] and index not in marked]
    if trained:
        raise DataError(
            f"{key}[{marked[-1]}] is marked as not to be trained, but {key}[{trained[0]}] before it is to be; only "
            "answers at the beginning can be left out: split the conversation, or remove the marks and train the last "
            "answer alone with 'data.mask: last'"
        )
    return marked[-1] + 1


def _is_off(turn: Values) -> bool:
    return any(str(turn[mark]).lower() in ("0", "0.0", "false") for mark in NOT_TRAINED if mark in turn)


def read_turns(turns: Sequence[object], key: str) -> tuple[Message, ...]:
    """Turns as messages; a DataError names the one that it is about, as `key[2]`."""
    messages = []
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise DataError(f"{key}[{index}] is {described(turn)}; a turn is an object with 'role' and 'content'")
        try:
            messages.append(_message(turn))
        except DataError as error:
            raise DataError(f"{key}[{index}]: {error}") from None
    return tuple(messages)


def _message(turn: Values) -> Message:
    speaker, said = _style(turn)
    name = text_of(turn, speaker)
    role = ROLES.get(name.strip().lower())
    if role is None:
        raise DataError(f"the role '{name[:60]}' is not known{did_you_mean(name, ROLES)}")
    if name.strip().lower() == CALL:
        return Message(role, "", _calls_said(turn, said))
    called = turn.get("tool_calls") or turn.get(CALL)
    calls = calls_of(called, "'tool_calls'") if called else ()
    if role == "assistant":
        _refuse_unread(turn)
    if calls and role != "assistant":
        raise DataError(f"a turn of '{name[:60]}' calls tools; only the assistant can")
    return Message(role, "" if calls and turn.get(said) is None else _content(turn, said), calls)


def _style(turn: Values) -> tuple[str, str]:
    """Under which keys this turn names who speaks and what is said; styles may be mixed."""
    speaker = "from" if "from" in turn and "role" not in turn else "role"
    usual = "value" if speaker == "from" else "content"
    return speaker, next((said for said in (usual, *SAID) if said in turn), usual)


def _refuse_unread(turn: Values) -> None:
    """DataError for what belongs to an answer and has no place in ours: it must not get lost without a word."""
    for name in REASONING:
        if turn.get(name):
            raise DataError(
                f"'{name}' stands beside the answer, where it would not be trained; write it into the answer's text, "
                "as in '<think>...</think>', or remove it"
            )
    if turn.get("train_detail"):
        raise DataError("'train_detail' trains parts of an answer, which is not possible here; remove it")


def _calls_said(turn: Values, said: str) -> tuple[ToolCall, ...]:
    """The calls that the text of this turn is."""
    if calls := calls_of(turn.get(said), f"'{said}'"):
        return calls
    raise DataError(f"'{said}' holds no call; a turn of '{CALL}' is JSON text with 'name' and 'arguments'")


def _content(turn: Values, key: str) -> str:
    """The text of a turn; OpenAI's list of typed parts is put together where all are text."""
    parts = turn.get(key)
    if not isinstance(parts, list) or not parts:
        return text_of(turn, key)
    return "".join(_part(part, f"'{key}', part {number}") for number, part in enumerate(parts, 1))


def _part(part: object, place: str) -> str:
    kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise DataError(f"{place} is {described(part)}; a part is an object with 'type' and 'text'")
    if kind != "text":
        raise DataError(f"{place} is of type '{kind}'; only parts of type 'text' can be trained on")
    return checked_text(part.get("text"), place)
