"""BLEU (Papineni et al., ACL 2002), as sacrebleu computes it (arXiv:1804.08771)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ftune.evals.metrics.base import References
from ftune.evals.metrics.translation import Translation
from ftune.evals.scored import Kind

if TYPE_CHECKING:
    from ftune.evals.scored import Floats

_ORDERS = 4

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese: no blanks between words."""


class Bleu(Translation):
    """N-grams of 1 to 4 words that are in a reference too, with a penalty for brevity; 0 to 100.

    Counts are over all rows, with sacrebleu's default smoothing (`exp`). A row's own value leaves out the orders that
    it is too short for ("effective order"), as sacrebleu advises for single sentences. An empty completion scores 0.
    """

    type: Literal["bleu"] = "bleu"

    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How texts are cut into words: `13a` as mteval does, `intl` for more kinds of signs, `zh` for Chinese, `char` for
    any other language without blanks between words, `none` at blanks only."""

    lowercase: bool = False
    """Whether capitals do not matter."""

    def kinds(self) -> Mapping[str, Kind]:
        """Points."""
        return {"bleu": Kind(scale="points")}

    def library(self) -> Any:
        """With `force`, sacrebleu does not warn of completions that end in a blank and a full stop."""
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=True)

    def unfit(self, references: References) -> str:
        """A language whose sentences would be one word each."""
        text = "".join(each for row in references for each in row)
        if self.tokenize in ("13a", "intl", "none") and 2 * len(_UNSPACED.findall(text)) > sum(map(str.isalpha, text)):
            return "the references have no blanks between words; set 'tokenize' to 'zh' or 'char', or use 'chrf'"
        return super().unfit(references)

    def of_corpus(self, sums: "Floats") -> "Floats":
        """Counts are: length, reference length, right n-grams by order, all n-grams by order."""
        return _bleu(sums, effective=False)

    def of_rows(self, counts: "Floats") -> "Floats":
        """Without the orders that a row is too short for."""
        return _bleu(counts, effective=True)


def _bleu(sums: "Floats", *, effective: bool) -> "Floats":
    """BP exp(mean of log p_n). The k-th order without a match has the precision 1 / (2^k total) (NIST's smoothing)."""
    import numpy as np

    length, wanted = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    there = total > 0
    unmatched = there & (right == 0)
    smoothed = np.where(unmatched, 0.5 ** np.cumsum(unmatched, -1), right)
    logs = np.where(there, np.log(np.where(there, smoothed / np.maximum(total, 1), 1)), 0)
    mean = logs.sum(-1) / (np.maximum(there.sum(-1), 1) if effective else _ORDERS)
    penalty = np.where(length < wanted, np.exp(1 - wanted / np.maximum(length, 1)), 1)
    some = (right.sum(-1) > 0) & (effective | there.all(-1))
    score: Floats = np.where(some, 100 * penalty * np.exp(mean), 0)
    return score
