"""Saying the same again: within a completion, and in all of them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from ftune.evals.metrics.base import Answer, Metric, Row
from ftune.evals.scored import Kind, Scored

Ngram: TypeAlias = tuple[Hashable, ...]


class Repetition(Metric):
    """The share of a completion's n-grams that it has had before, and distinct-n of all completions.

    The first is rep-n of arXiv:1908.04319: 1 - distinct / all n-grams of a completion, 0 for one that is shorter than
    an n-gram. Distinct-n (arXiv:1510.03055) counts the n-grams of all completions together; it falls as they get longer
    or more in number, so compare it for as many rows only.
    """

    needs_references: ClassVar[bool] = False

    type: Literal["repetition"] = "repetition"

    ngram: Annotated[int, Field(ge=1)] = 3
    """How many words or tokens in a row are compared."""

    unit: Literal["words", "tokens"] = "words"
    """`words` are compared without regard to capitals; `tokens` suit languages without blanks between words."""

    def kinds(self) -> Mapping[str, Kind]:
        """Two shares."""
        return {f"repetition_{self.ngram}": Kind("lower"), f"distinct_{self.ngram}": Kind("higher")}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return self._of

    def score(self, answers: Sequence[Answer]) -> dict[str, Scored]:
        """Distinct-n of all rows is no sum over rows: two rows that are the same share their n-grams."""
        (repetition, within), (distinct, own) = super().score(answers).items()
        found = [ngram for answer in answers for ngram in self._ngrams(answer) or ()]
        return {repetition: within, distinct: replace(own, whole=len(set(found)) / len(found) if found else None)}

    def _of(self, answer: Answer) -> Row:
        """None where tokens are compared that are not known; distinct-n of a row also where it has no n-gram."""
        ngrams = self._ngrams(answer)
        if not ngrams:
            return [None if ngrams is None else 0.0, None]
        share = len(set(ngrams)) / len(ngrams)
        return [1.0 - share, share]

    def _ngrams(self, answer: Answer) -> list[Ngram] | None:
        units: Sequence[Hashable] | None = (
            answer.completion.casefold().split() if self.unit == "words" else answer.token_ids
        )
        return None if units is None else ngrams_of(units, self.ngram)


def ngrams_of(units: Sequence[Hashable], size: int) -> list[Ngram]:
    """All stretches of `size` units, in order; none where there are fewer units."""
    return [tuple(units[start : start + size]) for start in range(len(units) - size + 1)]
