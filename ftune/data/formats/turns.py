"""Turns of chat rows: one reader for every layout that is a list of role and content."""

from collections.abc import Mapping
from typing import cast

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Message, Role
from ftune.data.formats.base import Values, described, optional_text_of, text_of


def conversation(row: Values, key: str, *, role: str, content: str, roles: Mapping[str, str]) -> Conversation:
    """The list under `key` as a conversation; `roles` maps the layout's names of roles to ours.

    A text under `system` beside the list becomes the first turn.
    """
    turns = row.get(key)
    if not isinstance(turns, list):
        raise DataError(f"'{key}' is {described(turns)}; it must be a list of turns with '{role}' and '{content}'")
    if row.get("tools"):
        raise DataError("the row describes tools under 'tools', which are not supported yet; remove this column")
    if not turns:
        raise DataError(f"'{key}' is empty; a conversation needs at least a user and an assistant turn")
    messages = [_message(turn, f"{key}[{index}]", role, content, roles) for index, turn in enumerate(turns)]
    if system := optional_text_of(row, "system"):
        messages.insert(0, Message("system", system))
    return Conversation(tuple(messages))


def _message(turn: object, place: str, role: str, content: str, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{place} is {described(turn)}; a turn is an object with '{role}' and '{content}'")
    if turn.get("tool_calls"):
        raise DataError(f"{place} calls tools under 'tool_calls', which are not supported yet")
    try:
        name, text = text_of(turn, role), text_of(turn, content)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if name not in roles:
        raise DataError(f"{place}: the role '{name}' is not known{did_you_mean(name, roles)}")
    return Message(cast(Role, roles[name]), text)
