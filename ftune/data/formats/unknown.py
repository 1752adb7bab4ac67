"""What to say about a row whose layout is not known."""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from ftune.data.formats.base import RowFormat, Values, quoted_keys
from ftune.data.row import Row

NEAREST = 3
"""So many layouts are described; all are named."""

_TWO_TEXTS = (
    "a label beside two texts is a task: say in the recipe how it is asked and what its labels mean, as in 'format: "
    '{{type: task, templates: [{{prompt: "{{{0}}}\\n{{{1}}}\\n{{options}}", answer: "{{label}}"}}], '
    "labels: {{0: ..., 1: ...}}}}'"
)

HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("parent_id", "text", "role"),
        "these are the messages of trees of conversations; put each path from a first message to its last answer into "
        "one row 'messages', or use a copy of the data set where this is done",
    ),
    (
        ("translation",),
        "'translation' is an object; write its languages as columns, such as 'de' and 'en', and say how to ask, as in "
        '\'format: {type: task, templates: [{prompt: "Translate into English: {de}", answer: "{en}"}]}\'',
    ),
    *(
        ((one, other, "label"), _TWO_TEXTS.format(one, other))
        for one, other in (("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"))
    ),
    (
        ("system", "chat"),
        "'chat' is a whole conversation in one text; write it as a list of turns under 'messages', or train on the "
        "text as it stands with 'columns: {text: chat}'",
    ),
    (
        ("completions", "labels"),
        "these are steps with a verdict on each, for reward models of steps; there is no answer to train on",
    ),
    (
        ("title", "paragraphs"),
        "these are articles with questions inside of them, as in SQuAD's own files; write a row for each question with "
        "'context', 'question' and 'answers', or use a copy of the data set where this is done",
    ),
    (
        ("segments",),
        "'segments' are pieces of text with masks of their own; write prompt and completion as two columns",
    ),
)
"""What to say of rows that are met often and cannot be read: keys that tell them, and what can be done."""

CALLED = (
    ("question", "prompt", "instruction", "query", "problem", "input", "source"),
    ("answer", "response", "output", "solution", "completion", "generation", "target", "reply"),
)
"""Words in the names of columns that hold what is asked, and what is answered."""

LONGEST_KEY = 60
"""In characters."""


def unknown_layout(row: Row, known: Sequence[type[RowFormat]]) -> str:
    """What was found, the layouts that come nearest, and a `columns:` line made of the row's own keys."""
    found = quoted_keys(tuple(row.values)) if row.values else "no keys"
    nearest = sorted(known, key=lambda cls: (-_likeness(cls, row.values), cls.rank))[:NEAREST]
    return "\n".join(
        [
            f"{row.origin}: the layout of this row is not known: found {found}",
            f"nearest: {'; '.join(f'{cls.name()} needs {quoted_keys(cls.keys)}' for cls in nearest)}",
            f"known: {', '.join(sorted(cls.name() for cls in known))}",
            next((words for keys, words in HINTS if all(key in row.values for key in keys)), _advice(row.values)),
        ]
    )


def _likeness(cls: type[RowFormat], row: Values) -> float:
    """How near the needed keys are to keys of this row: 1 where all are there."""
    return sum(
        max((_alike(name, key) for key in row for name in _names(cls, wanted)), default=0.0) for wanted in cls.keys
    ) / len(cls.keys)


def _names(cls: type[RowFormat], key: str) -> Iterable[str]:
    return cls.names.get(key, (key,))


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.strip().lower()[:40]).ratio()


def _advice(row: Values) -> str:
    """How to name the columns. Keys that are sentences or numbers come from a file whose first line is no header."""
    if "prompt" in row and len(row) == 1:
        return "a prompt alone has no answer to train on"
    if "text" in row:
        return f"if 'text' alone is to be trained on, say so with 'format: {{type: text}}'; else {_renaming(row)}"
    if any(key.strip().isdigit() or len(key) > LONGEST_KEY for key in row):
        return "if the file has no header line, name its columns in the recipe, for example 'columns: [text, label]'"
    return _renaming(row)


def _renaming(row: Values) -> str:
    """Columns that are called like a question and an answer, else the two longest texts in their order."""
    texts = {key: value for key, value in row.items() if isinstance(value, str) and re.search(r"[^\W\d]", value)}
    longest = sorted(texts, key=lambda key: -len(texts[key]))[:2]
    called = [key for words in CALLED if (key := _called_like(words, texts))]
    chosen = called if len({*called}) == 2 else [key for key in texts if key in longest]
    if not chosen:
        return "no column of this row holds text that could be trained on"
    new = ("user", "assistant") if len(chosen) == 2 else ("text",)
    pairs = ", ".join(f"{name}: {_quoted(key)}" for name, key in zip(new, chosen, strict=True))
    return f"rename columns in the recipe, for example 'columns: {{{pairs}}}'"


def _called_like(words: Sequence[str], keys: Iterable[str]) -> str | None:
    """The first key with one of the words in it that is no number or name of a row."""
    likely = (key for key in keys if not re.search(r"(^|[\W_])id$", key.lower()))
    return next((key for key in likely if any(word in key.lower() for word in words)), None)


def _quoted(key: str) -> str:
    """The key as YAML reads it."""
    return key if re.fullmatch(r"[^\W\d][\w-]*( [\w-]+)*", key) else json.dumps(key)
