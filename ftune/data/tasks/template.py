"""One template of a task: text with `{column}` in it, and nothing else that a template language can do."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Self

from pydantic import model_validator

from ftune.core.section import Section

OPTIONS = "options"
"""The placeholder that stands for the list of label words; no column is looked up for it."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}\n]+)\}|[{}]")


@cache
def placeholders(text: str) -> tuple[str, ...]:
    """The names in `{name}`, in order. Raises ValueError for a brace that is neither part of a name nor doubled."""
    found: dict[str, None] = {}
    for match in _BRACES.finditer(text):
        if match[0] in ("{", "}"):
            raise ValueError(
                f"a single '{match[0]}' in {text!r}; write '{{column}}' for a value and '{{{{' for a brace"
            )
        if match[1]:
            found[match[1]] = None
    return tuple(found)


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced and doubled braces single. What a value holds is never looked into."""
    return _BRACES.sub(lambda match: values[match[1]] if match[1] else match[0][0], text)


class TaskTemplate(Section):
    """How one row is asked, and how it is answered."""

    prompt: str
    """What the user says, with `{column}` for a value, `{options}` for the list of label words, `{{` for a brace."""

    answer: str
    """What the assistant says: `{label}`, `{summary}`."""

    turned_around: bool = False
    """Whether it asks for the input, given the answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """All placeholders, without `options`."""
        return tuple(name for name in placeholders(f"{self.prompt}\n{self.answer}") if name != OPTIONS)

    @property
    def lists_options(self) -> bool:
        """Whether the prompt holds `{options}`."""
        return OPTIONS in placeholders(self.prompt)

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        for key, text in (("prompt", self.prompt), ("answer", self.answer)):
            if not {*placeholders(text)} - {OPTIONS}:
                raise ValueError(f"'{key}' has no placeholder such as '{{text}}': it would be the same for every row")
        if OPTIONS in placeholders(self.answer):
            raise ValueError("'{options}' belongs into 'prompt'; the answer is one of them, '{label}'")
        return self
