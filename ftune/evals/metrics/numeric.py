"""A number that is right or wrong, as in GSM8K (arXiv:2110.14168)."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal

from ftune.evals.metrics.base import Answer, Metric, References, Row
from ftune.evals.scored import Kind

MARK = "####"
"""GSM8K puts the answer behind this."""

_NUMBER = re.compile(
    r"(?P<before>(?<![\w.,)\]])[-\u2212])?(?:[$\u20ac\u00a3]\s?(?P<after>[-\u2212])?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+)"
)
"""A number with thousands separators, and a minus before or after its currency; one between two terms is none."""


class Numeric(Metric):
    """1 where the completion's final number equals a reference's, else 0."""

    type: Literal["numeric"] = "numeric"

    def kinds(self) -> Mapping[str, Kind]:
        """One share."""
        return {"numeric": Kind()}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return lambda answer: [_judged(answer)]

    def unfit(self, references: References) -> str:
        """References without any number."""
        if any(final_number(each) is not None for row in references for each in row):
            return ""
        return super().unfit(references) or "no reference has a number in it"


def final_number(text: str) -> Decimal | None:
    """The first number behind the last `####`, or else the last number of all; None without one.

    `$1,200.50`, `1200.5` and `1200.50` are one number, and `50%` is 50.
    """
    before, mark, behind = text.rpartition(MARK)
    if mark and (first := _NUMBER.search(behind)):
        return _value(first)
    found = list(_NUMBER.finditer(before if mark else text))
    return _value(found[-1]) if found else None


def _judged(answer: Answer) -> float | None:
    """None where no reference has a number."""
    wanted = {final_number(each) for each in answer.references} - {None}
    return float(final_number(answer.completion) in wanted) if wanted else None


def _value(match: re.Match[str]) -> Decimal:
    number = Decimal(match["digits"].replace(",", ""))
    return -number if match["before"] or match["after"] else number
