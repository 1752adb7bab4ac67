"""Length, repetition, distinct-n and empty answers: what needs no reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.empty import Empty
from ftune.evals.metrics.length import Length
from ftune.evals.metrics.repetition import Repetition

WORDS = st.lists(st.sampled_from(["a", "b", "A", "c"]), max_size=8)


def test_lengths_in_each_unit() -> None:
    answer = Answer("two  words", token_ids=[5, 6, 7])
    assert Length().score([answer, Answer("")])["length_words"].rows == [2, 0]
    assert Length(unit="characters").score([answer])["length_characters"].rows == [10]
    assert Length(unit="tokens").score([answer, Answer("not known")])["length_tokens"].rows == [3, None]
    assert Length().kinds()["length_words"].better == "neither"


def test_blank_answers_are_empty() -> None:
    found = Empty().score([Answer(""), Answer(" \n"), Answer("a"), Answer(".")])["empty"]
    assert (list(found.rows), found.value, found.kind.better) == ([1, 1, 0, 0], 0.5, "lower")


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 3))
def test_ngrams_are_those_of_a_slow_count(texts: list[list[str]], size: int) -> None:
    found = Repetition(ngram=size).score([Answer(" ".join(words)) for words in texts])
    everything: list[str] = []
    for row, words in enumerate(texts):
        seen: list[str] = []
        repeated = 0
        for start in range(len(words) - size + 1):
            ngram = " ".join(words[start : start + size]).lower()
            repeated += ngram in seen
            seen.append(ngram)
        assert found[f"repetition_{size}"].rows[row] == pytest.approx(repeated / len(seen) if seen else 0)
        everything += seen
    distinct = len(set(everything)) / len(everything) if everything else None
    assert found[f"distinct_{size}"].value == distinct


def test_repeated_tokens_are_counted_where_they_are_known() -> None:
    answers = [Answer("x", token_ids=[1, 2, 1, 2, 1]), Answer("one two one two one")]
    found = Repetition(ngram=2, unit="tokens").score(answers)
    assert list(found["repetition_2"].rows) == [0.5, None]
    assert found["distinct_2"].value == 0.5
