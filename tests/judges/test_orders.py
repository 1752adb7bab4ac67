"""Both orders: what two choices make together, and that a preference for a place decides nothing."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.judges.base import Pair, Progress, Verdict
from ftune.judges.orders import Choice, combined, in_both_orders
from tests.judges.conftest import pair

ANSWERS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=8)


@pytest.mark.parametrize(
    ("straight", "turned", "verdict"),
    [
        ("first", "second", "first"),
        ("second", "first", "second"),
        ("tie", "tie", "tie"),
        ("first", "first", "inconsistent"),
        ("second", "second", "inconsistent"),
        ("first", "tie", "inconsistent"),
        ("tie", "second", "inconsistent"),
        ("first", None, None),
        (None, "tie", None),
        (None, None, None),
    ],
)
def test_what_two_choices_make(straight: Choice, turned: Choice, verdict: Verdict) -> None:
    assert combined(straight, turned) == verdict


def by_letter(shown: Sequence[Pair], _: Progress) -> list[Choice]:
    """A judge without a place that it prefers: the later letter is better."""
    return ["first" if each.first > each.second else "second" for each in shown]


@given(ANSWERS)
def test_a_fair_judge_is_believed_and_turned_pairs_have_turned_verdicts(answers: list[tuple[str, str]]) -> None:
    pairs = [pair(*each) for each in answers]
    wanted = ["tie" if a == b else "first" if a > b else "second" for a, b in answers]
    assert in_both_orders(pairs, by_letter, lambda _: None) == wanted
    back = in_both_orders([pair(b, a) for a, b in answers], by_letter, lambda _: None)
    assert back == [{"first": "second", "second": "first"}.get(verdict, verdict) for verdict in wanted]


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_judge_that_prefers_a_place_decides_nothing(place: Choice) -> None:
    pairs = [pair("a", "b"), pair("b", "a"), pair("c", "c")]
    verdicts = in_both_orders(pairs, lambda shown, _: [place] * len(shown), lambda _: None)
    assert verdicts == ["inconsistent", "inconsistent", "tie"]


def test_nobody_is_asked_about_equal_answers_and_progress_counts_pairs() -> None:
    shown: list[tuple[str, str]] = []
    seen: list[int] = []

    def ask(pairs: Sequence[Pair], progress: Progress) -> list[Choice]:
        for each in pairs:
            shown.append((each.first, each.second))
            progress(len(shown))
        return ["tie"] * len(pairs)

    in_both_orders([pair("a", "a"), pair("a", "b"), pair("c", "b")], ask, seen.append)
    assert shown == [("a", "b"), ("b", "a"), ("c", "b"), ("b", "c")]
    assert seen == [1, 2, 2, 3]
