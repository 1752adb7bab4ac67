"""What every row format has: the keys it needs, and one verb that turns a row into an example."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from ftune.core.errors import DataError
from ftune.core.section import Section
from ftune.core.suggest import did_you_mean
from ftune.data.example import Example, Labelled, Skipped

Values = Mapping[str, object]

SYSTEM = ("system", "system_prompt", "system_instruction", "systemInstruction")
"""Names of the column that holds a system text."""

MOST_KEYS = 12
"""So many keys are named in a message; tables can have hundreds."""


class RowFormat(Section):
    """A layout of rows. A subclass is one file of this folder; nothing else needs to know about it."""

    keys: ClassVar[tuple[str, ...]]
    """The keys that every row of this layout has."""

    optional: ClassVar[tuple[str, ...]] = ()
    """The keys that it reads where they are present."""

    names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The names under which a key is read, first come first taken. A key that is not here has its own name only."""

    rank: ClassVar[int] = 50
    """Where a row fits several layouts, the lowest rank is taken: the one that says more about the row."""

    detected: ClassVar[bool] = True
    """Whether rows tell this layout by themselves; else it is taken where it is named."""

    seeded: ClassVar[bool] = False
    """Whether what it makes of a row depends on the recipe's seed."""

    @property
    def takes_examples(self) -> bool:
        """Whether rows are shown in the prompts of other rows, as in k-shot prompts."""
        return False

    @classmethod
    def name(cls) -> str:
        """The `type` that a recipe gives for this layout."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The name under which this row has `key`."""
        for name in cls.names.get(key, (key,)):
            if name in row:
                return name
        return None

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Why this row is of this layout, in words, or None when it is not."""
        found = tuple(name for key in cls.keys if (name := cls.name_in(row, key)))
        return quoted_keys(found) if len(found) == len(cls.keys) else None

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """The keys of this row that are read."""
        return {name for key in cls.keys + cls.optional if (name := cls.name_in(row, key))}

    def to_example(self, row: Values) -> Example | Skipped:
        """The row's meaning. Raises DataError without file and line, which the caller knows."""
        raise NotImplementedError

    def to_labelled(self, row: Values) -> Labelled:
        """The row's text and its class, for a classifier. Raises DataError where the layout knows no classes."""
        raise DataError(
            f"a classifier learns from a text and its class, and rows of '{self.name()}' have none; "
            "name the layout with 'data.format: classification'"
        )

    def bound(self, first: Sequence[Values], seed: int) -> Self:
        """The format with what it takes from the first rows of its source, such as the examples of k-shot prompts."""
        return self

    def choices(self, row: Values) -> tuple[str, ...]:
        """The answers that this row's answer is one of, in order, where the layout knows them (label words)."""
        return ()

    def classes(self) -> tuple[str, ...]:
        """The classes that rows are labelled with, where the layout knows them once it is bound."""
        return ()

    def text_under(self, row: Values, key: str) -> str:
        """The text that this row has as `key`, under whatever name."""
        return text_of(row, self.name_in(row, key) or key)

    def optional_text_under(self, row: Values, key: str) -> str:
        """Like `text_under`, but a missing key and null are an empty text."""
        return optional_text_of(row, self.name_in(row, key) or key)


def quoted_keys(keys: tuple[str, ...]) -> str:
    """`key 'text'`, `keys 'prompt' and 'completion'`, or the first twelve `and 30 more`."""
    quoted = [f"'{printable(key[:60])}'" for key in keys[:MOST_KEYS]]
    if len(keys) > MOST_KEYS:
        return f"keys {', '.join(quoted)} and {len(keys) - MOST_KEYS} more"
    return f"key {quoted[0]}" if len(quoted) == 1 else f"keys {', '.join(quoted[:-1])} and {quoted[-1]}"


def printable(text: str) -> str:
    """The text on one line, as any terminal takes it: what has no shape of its own is written out."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def text_of(row: Values, key: str) -> str:
    """The text under `key`; anything but text that a tokenizer can read is a DataError."""
    if key not in row:
        raise DataError(f"'{key}' is missing{did_you_mean(key, row)}")
    return checked_text(row[key], f"'{key}'")


def optional_text_of(row: Values, key: str) -> str:
    """Like `text_of`, but a missing key and null are an empty text."""
    return "" if row.get(key) is None else text_of(row, key)


def checked_text(value: object, place: str) -> str:
    """The value if it is text that a tokenizer can read; `place` names it in the DataError otherwise."""
    if not isinstance(value, str):
        raise DataError(f"{place} is {described(value)}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # what the error handler `surrogateescape` makes of a byte
            raise DataError(
                f"{place} holds the byte 0x{code - 0xDC00:02x}, which is not UTF-8; name the file's encoding in the "
                "recipe ('encoding: latin-1')"
            ) from None
        raise DataError(f"{place} holds half a character (a lone surrogate) at position {error.start}") from None
    return value


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
