"""One question and its answer in columns of text: what stands before the answer."""

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Conversation, Message
from ftune.data.formats.base import RowFormat, Values, checked_text, described, quoted_keys
from ftune.data.formats.cells import parsed


def exchange(format: RowFormat, row: Values, parts: tuple[str, ...], answer: str) -> Conversation:
    """What `before_answer` makes of the keys in `parts`, then the answer as the assistant's turn."""
    return Conversation((*before_answer(format, row, *parts), Message("assistant", answer)))


def before_answer(format: RowFormat, row: Values, *parts: str) -> tuple[Message, ...]:
    """The system text, the history, and the user's turn: the texts of the keys `parts`, with blank lines between.

    Keys that the format needs must hold text; others may be missing or null. Blank texts are left out, and all of them
    blank is a DataError.
    """
    texts: dict[str, str] = {}
    for key in parts:
        texts.setdefault(format.name_in(row, key) or "", _part(format, row, key))
    filled = [text for text in texts.values() if text.strip()]
    if not filled:
        blank = tuple(name for name in texts if name)
        if not blank:
            raise DataError(f"'{parts[0]}' is missing{did_you_mean(parts[0], row)}")
        raise DataError(f"{quoted_keys(blank)} {'is' if len(blank) == 1 else 'are all'} empty")
    user = Message("user", "\n\n".join(filled))
    system = format.optional_text_under(row, "system") if "system" in format.optional else ""
    history = _history(row) if "history" in format.optional else []
    return (*([Message("system", system)] if system else []), *history, user)


def _part(format: RowFormat, row: Values, key: str) -> str:
    if key in format.keys:
        return format.text_under(row, key)
    name = format.name_in(row, key) or key
    if isinstance(row.get(name), list | dict):
        raise DataError(
            f"'{name}' is {described(row[name])}; it must be text, and is left out under another name, as with "
            f"'columns: {{unused: {name}}}'"
        )
    return format.optional_text_under(row, key)


def _history(row: Values) -> list[Message]:
    """The earlier turns: a list of pairs of what the user and what the assistant said."""
    pairs = parsed(row.get("history"))
    if pairs is None or pairs == "":
        return []
    if not isinstance(pairs, list):
        raise DataError(f"'history' is {described(pairs)}; it must be a list of pairs [user, assistant]")
    turns = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError(f"history[{index}] is {described(pair)}; it must be a pair [user, assistant]")
        turns.append(Message("user", checked_text(pair[0], f"history[{index}][0]")))
        turns.append(Message("assistant", checked_text(pair[1], f"history[{index}][1]")))
    return turns
