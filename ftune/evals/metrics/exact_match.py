"""Whether a completion is the reference."""

import re
import string
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from pydantic import Field

from ftune.evals.metrics.base import Answer, Metric, Row
from ftune.evals.scored import Kind

Ignorable: TypeAlias = Literal["case", "punctuation", "articles", "spaces"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatch(Metric):
    """1 where the completion is one of the references, but for blanks around it, else 0."""

    type: Literal["exact_match"] = "exact_match"

    ignore: list[Ignorable] = Field(default_factory=list)
    """What else does not matter: `case`, `punctuation` (ASCII), `articles` (a, an, the), `spaces` (how many there
    are in a row). All four are the exact match of SQuAD (arXiv:1606.05250)."""

    def kinds(self) -> Mapping[str, Kind]:
        """One share."""
        return {"exact_match": Kind()}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return lambda answer: [float(self._plain(answer.completion) in map(self._plain, answer.references))]

    def _plain(self, text: str) -> str:
        """In SQuAD's order: punctuation goes before articles, so that `a.` is one."""
        if "case" in self.ignore:
            text = text.lower()
        if "punctuation" in self.ignore:
            text = text.translate(_PUNCTUATION)
        if "articles" in self.ignore:
            text = _ARTICLES.sub(" ", text)
        return " ".join(text.split()) if "spaces" in self.ignore else text.strip()
