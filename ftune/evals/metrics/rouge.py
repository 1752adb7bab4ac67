"""ROUGE (Lin, 2004), as Google's `rouge-score` computes it."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from ftune.evals.metrics.base import Answer, Metric, References, Row
from ftune.evals.scored import Kind

_READ = re.compile("[a-z0-9]", re.IGNORECASE | re.ASCII)
"""rouge-score 0.1.2 takes everything else for a blank."""

_NAMES = ("rouge1", "rouge2", "rougeL")


class Rouge(Metric):
    """Words (ROUGE-1), pairs of words (ROUGE-2) and the longest common subsequence (ROUGE-L) that are shared.

    The names without an ending are F measures. Of several references, the one with the best F counts, for each of the
    three on its own. An empty completion scores 0.
    """

    package: ClassVar[tuple[str, str] | None] = ("rouge_score", "rouge-score")

    type: Literal["rouge"] = "rouge"

    stemmer: bool = False
    """Whether Porter's stemmer takes the endings off English words first, so that `cats` is `cat`."""

    def kinds(self) -> Mapping[str, Kind]:
        """Nine shares."""
        return {f"{name}{part}": Kind() for name in _NAMES for part in ("", "_precision", "_recall")}

    def open(self) -> Callable[[Answer], Row]:
        """Load rouge-score."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(_NAMES), use_stemmer=self.stemmer)
        return lambda answer: list(_values(scorer.score_multi(answer.references, answer.completion)))

    def can_score(self, answer: Answer) -> bool:
        """Not with references in which rouge-score sees no word: everything would score 0."""
        return any(_READ.search(each) for each in answer.references)

    def unfit(self, references: References) -> str:
        """Languages that rouge-score cannot read."""
        text = "".join(each for row in references for each in row)
        letters = sum(map(str.isalpha, text))
        read = len(_READ.findall(text))
        if letters and read < letters / 2:
            return "rouge-score reads Latin letters without accents only, which most letters here are not; use 'chrf'"
        return super().unfit(references) or ("" if read else "no reference has a word in it")


def _values(scores: Mapping[str, Any]) -> Iterator[float]:
    for name in _NAMES:
        yield from (float(scores[name].fmeasure), float(scores[name].precision), float(scores[name].recall))
