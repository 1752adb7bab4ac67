"""Rows of text and label, as an instruction with the labels listed."""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import PrivateAttr

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Labelled, Message, Text
from ftune.data.formats.base import RowFormat, Values, quoted_keys, text_of
from ftune.data.tasks.labels import LabelNames, LabelWords, by_label, label_of, labels_of, words_for

SECOND = ("question", "question1", "sentence1", "premise", "hypothesis", "option1")
"""Columns of a second text: a label beside two texts says something about both."""

LONGEST_LABEL = 60
"""In characters. What is longer is no label of a class."""


_NUMBERED = (
    ", a number that is trained as it stands; name the classes in the recipe, as in "
    "'format: {type: classification, labels: {0: ..., 1: ...}}'"
)


class ClassificationFormat(RowFormat):
    """A text with its class; the answer is the word of the label.

    The labels that may be answered are those under `labels`, else those of the first rows.

    {"text": "A warm and funny film.", "label": "positive"}
    """

    type: Literal["classification"] = "classification"
    keys: ClassVar[tuple[str, ...]] = ("text", "label")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("text", "sentence", "review", "tweet", "comment", "content", "utterance", "headline"),
        "label": ("label_text", "label_name", "label", "class", "sentiment", "category", "intent", "emotion"),
    }
    rank: ClassVar[int] = 70

    text: str | None = None
    """Column of the text; by default the first there is of `text`, `sentence`, `review`, `tweet`, `comment`, `content`,
    `utterance`, `headline`."""

    label: str | None = None
    """Column of the label; by default the first there is of `label_text`, `label_name`, `label`, `class`, `sentiment`,
    `category`, `intent`, `emotion`."""

    labels: LabelNames | None = None
    """The word of each label, as in `{0: bad, 1: good}` or `[bad, good]`; by default the labels themselves."""

    _words: LabelWords | None = PrivateAttr(None)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """The two columns, where one holds text and the other a short text, a whole number or a truth value."""
        text, label = cls.name_in(row, "text"), cls.name_in(row, "label")
        if text is None or label is None or not isinstance(row[text], str) or any(name in row for name in SECOND):
            return None
        try:
            found = label_of(row, label)
        except DataError:
            return None
        reason = f"{quoted_keys((text, label))}: a text and its class"
        numbered = _NUMBERED if re.fullmatch(r"-?\d+", found) else ""
        return f"{reason}{numbered}" if len(found) <= LONGEST_LABEL else None

    def bound(self, first: Sequence[Values], seed: int) -> Self:
        """With the labels of the first rows, where the recipe does not name them."""
        bound = self.model_copy()
        bound._words = self._words_in(first)
        return bound

    def to_example(self, row: Values) -> Example:
        """One user turn and one assistant turn. DataError for a label that is not one of those listed."""
        asked = Message("user", _asked(self._text(row), self.choices(row)))
        return Conversation((asked, Message("assistant", self._word(row))))

    def to_labelled(self, row: Values) -> Labelled:
        """The text as it stands and the word of its label. DataError for a label that is not one of those listed."""
        return Labelled(Text(self._text(row)), self._word(row))

    def choices(self, row: Values) -> tuple[str, ...]:
        """The label words; none where fewer than two are known."""
        options = (self._words or self._words_in([row])).options
        return options if len(options) > 1 else ()

    def classes(self) -> tuple[str, ...]:
        """The label words, named in the recipe or met in the first rows."""
        return self._words.options if self._words else ()

    def _text(self, row: Values) -> str:
        column = self.text or self.name_in(row, "text") or "text"
        text = text_of(row, column)
        if not text.strip():
            raise DataError(f"'{column}' is empty")
        return text

    def _word(self, row: Values) -> str:
        return (self._words or self._words_in([row])).word(row, self._label_column(row))

    def _words_in(self, rows: Sequence[Values]) -> LabelWords:
        labels = labels_of((row, self._label_column(row)) for row in rows)
        return words_for([by_label(self.labels)] if self.labels else [], labels)

    def _label_column(self, row: Values) -> str:
        return self.label or self.name_in(row, "label") or "label"


def _asked(text: str, options: Sequence[str]) -> str:
    if not options:
        return f"Which class does this text belong to? Answer with the name of the class only.\n\n{text}"
    listed = "\n".join(f"- {option}" for option in options)
    return (
        f"Which of these classes does the text below belong to? Answer with the class only.\n{listed}\n\nText: {text}"
    )
