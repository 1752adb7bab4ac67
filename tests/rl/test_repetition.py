"""Shares of n-grams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.rl.repetition import distinct, repetition


def test_distinct_by_hand():
    assert distinct([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)  # 12 21 12
    assert distinct([[1, 2], [1, 2], [2, 1]], 2) == pytest.approx(2 / 3)  # no 2-gram reaches into the next list
    assert distinct([[1], []], 2) == 1.0


def test_repetition_by_hand():
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123
    assert repetition([7, 7, 7, 7], n=1) == pytest.approx(3 / 4)
    assert repetition([1, 2]) == 0.0


@given(st.lists(st.integers(0, 3), max_size=15), st.integers(1, 4))
def test_repetition_counts_what_stood_earlier(tokens, n):
    starts = range(max(len(tokens) - n + 1, 0))
    repeats = sum(any(tokens[at : at + n] == tokens[start : start + n] for at in range(start)) for start in starts)
    assert repetition(tokens, n) == pytest.approx(repeats / len(starts) if starts else 0.0)
