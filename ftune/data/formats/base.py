"""What every row format has: the keys it needs, and one verb that turns a row into an example."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from ftune.core.errors import DataError
from ftune.core.section import Section
from ftune.core.suggest import did_you_mean
from ftune.data.example import Example, Skipped

Values = Mapping[str, object]


class RowFormat(Section):
    """A layout of rows. A subclass is one file of this folder; nothing else needs to know about it."""

    keys: ClassVar[tuple[str, ...]]
    """The keys that every row of this layout has."""

    optional: ClassVar[tuple[str, ...]] = ()
    """The keys that it reads where they are present."""

    rank: ClassVar[int] = 50
    """Where a row fits several layouts, the lowest rank is taken: the one that says more about the row."""

    @classmethod
    def name(cls) -> str:
        """The `type` that a recipe gives for this layout."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Why this row is of this layout, in words, or None when it is not."""
        return quoted_keys(cls.keys) if all(key in row for key in cls.keys) else None

    def to_example(self, row: Values) -> Example | Skipped:
        """The row's meaning. Raises DataError without file and line, which the caller knows."""
        raise NotImplementedError

    def bound(self, first: Sequence[Values], seed: int) -> Self:
        """This format with what it takes from the first rows of its source, such as the examples of k-shot prompts."""
        return self

    def choices(self, row: Values) -> tuple[str, ...]:
        """The answers that this row's answer is one of, in order, where the layout knows them (label words)."""
        return ()


def quoted_keys(keys: tuple[str, ...]) -> str:
    """`key 'text'` or `keys 'prompt' and 'completion'`."""
    quoted = [f"'{key}'" for key in keys]
    return f"key {quoted[0]}" if len(quoted) == 1 else f"keys {', '.join(quoted[:-1])} and {quoted[-1]}"


def text_of(row: Values, key: str) -> str:
    """The text under `key`; anything but text that a tokenizer can read is a DataError."""
    if key not in row:
        raise DataError(f"'{key}' is missing{did_you_mean(key, row)}")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"'{key}' is {described(value)}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"'{key}' holds half a character (a lone surrogate) at position {error.start}") from None
    return value


def optional_text_of(row: Values, key: str) -> str:
    """Like `text_of`, but a missing key and null are an empty text."""
    return "" if row.get(key) is None else text_of(row, key)


def described(value: object) -> str:
    """The kind of a JSON value in words, with the value where it is short."""
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"[:60]
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with {quoted_keys(tuple(map(str, value)))}"[:120] if value else "an empty object"
        case str():
            return f"the text {value[:40]!r}"
        case _:
            return f"a {type(value).__name__}"
