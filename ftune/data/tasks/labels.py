"""Labels and their words: what stands in a column, and what a model says for it (a verbalizer, arXiv:2001.07676)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from pydantic import Discriminator, Tag

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.formats.base import Values, described, text_of

KEPT_BACK = "-1"
"""What data sets write where a row's label is not given or not agreed on."""


def list_or(other: str) -> Discriminator:
    """Tells a list from the other form of a value, so that a wrong value is explained as one of them, not as both."""
    return Discriminator(lambda value: "list" if isinstance(value, list) else other)


LabelNames = Annotated[
    Annotated[dict[str, str], Tag("mapping")] | Annotated[list[str], Tag("list")], list_or("mapping")
]
"""Words by the text of the raw label, or the words of the labels 0, 1, 2, ..."""


def by_label(names: LabelNames) -> dict[str, str]:
    """Words by the key of the raw label."""
    pairs = names.items() if isinstance(names, dict) else ((str(number), name) for number, name in enumerate(names))
    return {label_key(raw): word for raw, word in pairs}


def label_of(row: Values, column: str) -> str:
    """The raw label as text: `0` and `"0"` are one label, and so are `true`, `"True"` and `"TRUE"`.

    Raises DataError where there is none, or where it is a fraction, a list or an object.
    """
    value = row.get(column)
    if column not in row or isinstance(value, str):
        text = text_of(row, column).strip()
        if not text:
            raise DataError(f"'{column}' is empty; a row needs its label")
        return text
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value)) if not isinstance(value, bool) else str(value).lower()
    raise DataError(f"'{column}' is {described(value)}; a label is text, a whole number, true or false")


def labels_of(rows: Iterable[tuple[Values, str]]) -> Iterator[str]:
    """The labels of those rows (each with its column) that have one; reading the others tells what is wrong."""
    for row, column in rows:
        with suppress(DataError):
            yield label_of(row, column)


@dataclass(frozen=True, slots=True)
class LabelWords:
    """The word of each label, in the order in which they are listed."""

    words: Mapping[str, str]
    """By the label's key."""
    given: bool
    """Whether the recipe or the task names them; else they are what the first rows hold."""

    @property
    def options(self) -> tuple[str, ...]:
        """The different words in order. Several labels may share a word."""
        return tuple(dict.fromkeys(self.words.values()))

    @property
    def listed(self) -> str:
        """The options, one a line."""
        return "\n".join(f"- {word}" for word in self.options)

    def word(self, row: Values, column: str) -> str:
        """The word of the label in this column. DataError when it is none of those that are known."""
        label = label_of(row, column)
        if (word := self.words.get(label_key(label))) is not None:
            return word
        if label == KEPT_BACK:
            raise DataError(
                f"'{column}' is '{label}', which data sets write where there is no label; 'data.on_bad_row: drop' "
                f"leaves such rows out, and where it is a class, 'format.labels' names it, as in '{{{label}: word}}'"
            )
        known = "of the labels that are named" if self.given else "of the first rows' labels"
        raise DataError(
            f"'{column}' is {label[:40]!r}, which is none {known}{did_you_mean(label, self.words)}; "
            f"name every label under 'format.labels', as in '{{{label[:40]}: word}}'"
        )


def words_for(known: Sequence[Mapping[str, str]], labels: Iterable[str]) -> LabelWords:
    """The words for these labels: the first of the known mappings that has most of them, else the labels themselves.

    Labels that are their own words are sorted (numbers by value), so that their order is the same for any rows. -1 is
    none of them: data sets write it where the label is kept back.
    """
    found = {label_key(label): label for label in labels if label != KEPT_BACK}
    if known:
        return LabelWords(max(known, key=lambda words: len(found.keys() & words.keys())), given=True)
    return LabelWords({key: found[key] for key in sorted(found, key=_by_value)}, given=False)


def label_key(label: str) -> str:
    """Under which a label is known: its text, truth values in small letters."""
    return label.lower() if label.lower() in ("true", "false") else label


def _by_value(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isascii() and key.isdigit() and len(key) < 10 else (10**9, key)
