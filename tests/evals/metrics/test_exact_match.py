"""Exact match and containment against SQuAD's own normalisation and a slow search."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.contains import Contains
from ftune.evals.metrics.exact_match import ExactMatch, Ignorable

ALL: list[Ignorable] = ["case", "punctuation", "articles", "spaces"]
TEXT = st.text(st.sampled_from("aAthe .,'-nB\n\u00e9"), max_size=12)


def squad(text: str) -> str:
    """`normalize_answer` of SQuAD's evaluate-v1.1.py."""

    def without_articles(text: str) -> str:
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def without_punctuation(text: str) -> str:
        return "".join(each for each in text if each not in set(string.punctuation))

    return " ".join(without_articles(without_punctuation(text.lower())).split())


def matched(metric: ExactMatch | Contains, completion: str, *references: str) -> float | None:
    ((scored),) = metric.score([Answer(completion, references)]).values()
    return scored.rows[0]


@given(TEXT, TEXT)
def test_ignoring_all_is_squads_exact_match(one: str, other: str) -> None:
    assert matched(ExactMatch(ignore=ALL), one, other) == float(squad(one) == squad(other))


@given(TEXT, st.lists(st.sampled_from(ALL)))
def test_a_text_matches_itself(text: str, ignore: list[Ignorable]) -> None:
    assert matched(ExactMatch(ignore=ignore), f" {text}\n", "no", text) == 1


@pytest.mark.parametrize(
    ("completion", "reference", "ignore"),
    [
        ("Paris", "paris", "case"),
        ("Paris.", "Paris", "punctuation"),
        ("the  Paris", "  Paris", "articles"),
        ("New \n York", "New York", "spaces"),
    ],
)
def test_each_difference_matters_until_it_is_ignored(completion: str, reference: str, ignore: Ignorable) -> None:
    others = [each for each in ALL if each != ignore]
    assert matched(ExactMatch(), completion, reference) == 0
    assert matched(ExactMatch(ignore=others), completion, reference) == 0
    assert matched(ExactMatch(ignore=[ignore]), completion, reference) == 1


@pytest.mark.parametrize(
    ("completion", "references", "whole", "anywhere"),
    [
        ("It is Paris, of course", ("paris",), 1, 1),
        ("14 apples", ("4",), 0, 1),
        ("4 apples", ("14", " 4\n"), 1, 1),
        ("it costs $4.", ("$4",), 1, 1),
        ("it costs US$4", ("$4",), 1, 1),
        ("a+b", ("a.b",), 0, 0),
        ("", ("x",), 0, 0),
        ("anything", ("", "  "), None, None),
        ("anything", (), None, None),
    ],
)
def test_containment(completion: str, references: tuple[str, ...], whole: float | None, anywhere: float | None) -> None:
    assert matched(Contains(), completion, *references) == whole
    assert matched(Contains(whole_words=False), completion, *references) == anywhere


def test_capitals_matter_where_asked() -> None:
    assert matched(Contains(case=True), "in Paris", "paris") == 0
    assert matched(Contains(case=True), "in Paris", "Paris") == 1


def test_references_that_say_nothing_are_refused() -> None:
    assert Contains().unfit([[" "], []]) == "all references are empty"
    assert Contains().unfit([[], []]) == ExactMatch().unfit([[]]) == "the rows have no answers to compare with"
    assert ExactMatch().unfit([[""]]) == ""
