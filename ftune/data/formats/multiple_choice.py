"""Multiple choice rows: a question, its options, and which of them is right."""

import re
from collections.abc import Mapping
from dataclasses import replace
from string import ascii_uppercase
from typing import ClassVar, Literal, TypeAlias

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message, Skipped
from ftune.data.formats.base import SYSTEM, RowFormat, Values, checked_text, described, quoted_keys
from ftune.data.formats.cells import parsed
from ftune.data.formats.exchange import before_answer
from ftune.data.formats.question_answer import NO_ANSWER, OPTIONS

SPREAD = {
    ("option1", "option2"): ("1", "2"),  # WinoGrande
    ("sol1", "sol2"): ("0", "1"),  # PIQA
    ("answerA", "answerB", "answerC"): ("1", "2", "3"),  # Social IQa
    ("answer0", "answer1", "answer2", "answer3"): ("0", "1", "2", "3"),  # Cosmos QA
}
"""Sets with a column for each option, and how each of them is called in the answer's column."""

MARKED = re.compile(r"\(?[A-Z0-9][).:]\s*\S")
"""An option that begins with its own letter, as AQuA's do."""

Options: TypeAlias = tuple[tuple[str, ...], tuple[str, ...] | None]
"""The texts, and how the row calls them where it says so."""


class MultipleChoiceFormat(RowFormat):
    """A question with its options, and the right one by letter, by number (counted from 0), or by its text.

    The options are a list, an object by letter, ARC's {"text": [...], "label": [...]}, or columns of their own. The
    user is asked with lettered options, after the context where there is one; the answer is the right one with its
    letter.

    {"question": "Which is a river?", "choices": ["Paris", "Loire"], "answer": 1}
    """

    type: Literal["multiple_choice"] = "multiple_choice"
    keys: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")
    optional: ClassVar[tuple[str, ...]] = ("context", "system")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("question", "question_stem", "query", "problem", "goal", "ctx", "sentence"),
        "choices": OPTIONS,
        "answer": (
            "answerKey",
            "answer_idx",
            "answer_index",
            "correct_option",
            "correct",
            "answer",
            "label",
            "solution",
        ),
        "context": ("context", "article", "passage", "dialogue"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 24

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A question, an answer, and at least two options."""
        question, answer = cls.name_in(row, "question"), cls.name_in(row, "answer")
        if question is None or answer is None or len(_options(row)[0]) < 2:
            return None
        counted = "" if isinstance(row[answer], str) or _options(row)[1] else ", counted from 0"
        return f"{quoted_keys((question, *_columns(row), answer))}: multiple choice{counted}"

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """With the columns of the options."""
        return super().used(row) | set(_columns(row))

    def to_example(self, row: Values) -> Example | Skipped:
        """The question with its options, and the right one. A row whose answer is kept back is left out."""
        asked = before_answer(self, row, "context", "question")
        options = _options(row)
        if len(options[0]) < 2:
            named = " or ".join(f"'{name}'" for name in OPTIONS)
            raise DataError(f"{named} is missing, or it is no list of two or more 'choices' in text")
        name = self.name_in(row, "answer") or "answer"
        if name in row and _is_kept_back(row[name], options):
            return Skipped(NO_ANSWER)
        right = _right(row.get(name), f"'{name}'", options)
        listed = _lettered(options[0])
        question = replace(asked[-1], content="\n".join([f"{asked[-1].content}\n", *listed]))
        return Conversation((*asked[:-1], question, Message("assistant", listed[right])))

    def choices(self, row: Values) -> tuple[str, ...]:
        """The options with their letters."""
        return _lettered(_options(row)[0])


def _columns(row: Values) -> tuple[str, ...]:
    """Where this row has its options."""
    listed = tuple(name for name in OPTIONS if _texts(row.get(name))[0])[:1]
    return listed or next((names for names in SPREAD if all(isinstance(row.get(name), str) for name in names)), ())


def _options(row: Values) -> Options:
    columns = _columns(row)
    called: tuple[str, ...] | None
    if columns in SPREAD:
        texts, called = tuple(str(row[name]) for name in columns), SPREAD[columns]
    else:
        texts, called = _texts(row[columns[0]]) if columns else ((), None)
    return tuple(checked_text(text, f"option {number}") for number, text in enumerate(texts, 1)), called


def _texts(value: object) -> Options:
    found = parsed(value)
    if isinstance(found, dict) and isinstance(found.get("text"), list) and isinstance(found.get("label"), list):
        texts, called = found["text"], found["label"]
    elif isinstance(found, dict):
        texts, called = list(found.values()), list(found)
    else:
        texts, called = found, None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return (), None
    if called is None or len(called) != len(texts):
        return tuple(texts), None
    return tuple(texts), tuple(str(name) for name in called)


def _lettered(texts: tuple[str, ...]) -> tuple[str, ...]:
    if all(MARKED.match(text) for text in texts) or len(texts) > len(ascii_uppercase):
        return texts
    return tuple(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))


def _is_kept_back(value: object, options: Options) -> bool:
    """Test sets have nothing or -1 where the answer should be."""
    empty = value is None or str(value).strip() in ("", "-1")
    return empty and str(value).strip() not in options[0]


def _right(value: object, place: str, options: Options) -> int:
    """The number of the right option, from 0. DataError where the answer names none, or could mean two."""
    texts, called = options
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        raise DataError(f"{place} is {described(value)}; it must be the letter, the number or the text of an option")
    name = checked_text(value, place).strip() if isinstance(value, str) else f"{value:g}"
    by_name = called or (ascii_uppercase if name.isalpha() else tuple(map(str, range(len(texts)))))
    named = [index for index in range(min(len(texts), len(by_name))) if by_name[index] == name]
    said = [index for index, text in enumerate(texts) if isinstance(value, str) and text.strip() == name]
    found = {*named[:1], *said[:1]}
    if len(found) != 1:
        fault = "could mean two of" if found else "names none of"
        raise DataError(f"{place} is {described(value)}, which {fault} the {len(texts)} options")
    return found.pop()
