"""A number that is right or wrong, as in GSM8K (arXiv:2110.14168)."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from ftune.core.errors import RewardError
from ftune.core.suggest import did_you_mean
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings

MARK = "####"
"""GSM8K puts the answer behind this."""

_NUMBER = re.compile(
    r"(?P<before>(?<![\w.,)\]])[-\u2212])?(?:[$\u20ac\u00a3]\s?(?P<after>[-\u2212])?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)"
)
"""A number with thousands separators, and a minus before or after its currency; one between two terms is none."""


class Numeric(RewardSource):
    """1 where the completion's final number equals the row's, else 0."""

    type: Literal["numeric"] = "numeric"

    column: str | None = None
    """The column that holds the right answer; by default the row's own answer."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [self._judged(sample) for sample in samples]

        return score

    def _judged(self, sample: Sample) -> Score:
        """None where the right answer is no number."""
        wanted = final_number(self._wanted(sample))
        return None if wanted is None else float(final_number(sample.completion) == wanted)

    def _wanted(self, sample: Sample) -> str:
        if self.column is None:
            if sample.reference is None:
                raise RewardError(
                    f"{sample.origin}: the row has no answer to compare with; name the 'column' that holds it"
                )
            return sample.reference
        if sample.columns.get(self.column) is None:
            raise RewardError(
                f"{sample.origin}: the row has nothing in column '{self.column}'"
                f"{did_you_mean(self.column, sample.columns.keys() - {self.column})}"
            )
        return str(sample.columns[self.column])


def final_number(text: str) -> Decimal | None:
    """The first number behind the last `####`, or else the last number of all; None without one.

    `$1,200.50`, `1200.5` and `1200.50` are one number, and `50%` is 50.
    """
    before, mark, behind = text.rpartition(MARK)
    if mark and (first := _NUMBER.search(behind)):
        return _value(first)
    found = list(_NUMBER.finditer(before if mark else text))
    return _value(found[-1]) if found else None


def _value(match: re.Match[str]) -> Decimal:
    number = Decimal(match["digits"].replace(",", ""))
    return -number if match["before"] or match["after"] else number
