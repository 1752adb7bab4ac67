"""Numbers as people and GSM8K write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import RewardError
from ftune.evals.metrics.numeric import final_number
from ftune.rewards.base import Sample, Score, Surroundings
from ftune.rewards.numeric import Numeric
from tests.rewards.conftest import chat


def score(sample: Sample, **keys: str) -> Score:
    """What one sample gets."""
    return Numeric(**keys).open(Surroundings())([sample])[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### 1,234 dollars, or 5 each", "1234"),
        ("it is $1,200.50.", "1200.50"),
        ("about 50% of 80", "80"),
        ("so 50%", "50"),
        ("#### -3", "-3"),
        ("a loss of -$20", "-20"),
        ("a loss of $-20", "-20"),
        ("it fell to \u22124.5 degrees", "-4.5"),
        ("7-3", "3"),
        ("10 - 5", "5"),
        ("(2)-1", "1"),
        ("first #### 1, then #### 2", "2"),
        ("12 #### none", "12"),
        ("a total of .5", "0.5"),
        ("1,2,3", "3"),
        ("1234,567", "567"),
        ("it is 18.00", "18"),
        ("٤٢", "42"),
    ],
)
def test_the_final_number(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "$", "-"])
def test_no_number(text: str) -> None:
    assert final_number(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_separators_and_currency_change_no_number(number: Decimal) -> None:
    for text in (f"{number:f}", f"{number:,f}", f"I paid ${number:,f}.", f"1 + 1\n#### {number:f}%"):
        assert final_number(text) == number


def test_right_wrong_and_without_a_number() -> None:
    for completion, wanted in (("so 72.0", 1.0), ("so 73", 0.0), ("", 0.0)):
        assert score(chat("?", completion, reference="24+48 #### 72")) == wanted


def test_the_answer_may_be_in_a_column() -> None:
    assert score(chat("?", "7", columns={"answer": 7}, reference="8"), column="answer") == 1.0


def test_an_answer_that_is_no_number_says_nothing() -> None:
    assert score(chat("?", "7", reference="seven")) is None


def test_a_row_without_an_answer_is_named() -> None:
    with pytest.raises(RewardError, match=r"rows\.jsonl:1: .*'column'"):
        score(chat("?", "7"))
    with pytest.raises(RewardError, match=r"rows\.jsonl:1: .*'anser'; did you mean 'answer'"):
        score(chat("?", "7", columns={"answer": 7}), column="anser")
    with pytest.raises(RewardError, match="'answer'"):
        score(chat("?", "7", columns={"answer": None}), column="answer")
