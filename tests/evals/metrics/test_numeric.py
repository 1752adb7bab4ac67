"""Numbers: the one that counts, however it is written."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.numeric import Numeric, final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48 + 24 = 72\n#### 72", "72"),
        ("#### $1,200.50 for 3 people", "1200.5"),
        ("first 5, then 7.", "7"),
        ("It is -4", "-4"),
        ("-$4", "-4"),
        ("10-4", "4"),
        ("5 apples #### none", "5"),
        ("half: .5", "0.5"),
        ("50%", "50"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_that_counts(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@given(st.decimals(-(10**9), 10**9, places=2), st.integers(0, 99))
def test_any_way_to_write_a_number_is_right(number: Decimal, other: int) -> None:
    written = [f"{number}", f"{number:,}", f"{number}0", f"I say {other}, no: #### {number} ({other})"]
    answers = [Answer(text, (f"{other} steps\n#### {number:,}",)) for text in written]
    assert Numeric().score(answers)["numeric"].value == 1
    assert Numeric().score([Answer(f"#### {number + 1}", (str(number),))])["numeric"].value == 0


def test_rows_without_a_number_to_compare_with_are_missing() -> None:
    answers = [Answer("4", ("four",)), Answer("4", ()), Answer("", ("4",)), Answer("4", ("3", "4"))]
    assert list(Numeric().score(answers)["numeric"].rows) == [None, None, 0, 1]
    assert Numeric().unfit([["four"], []]) == "no reference has a number in it"
    assert not Numeric().unfit([["four"], ["4"]])
