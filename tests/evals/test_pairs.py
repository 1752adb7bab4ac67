"""What scores of pairs and classes are worth, against numbers made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.evals.classes import class_report
from ftune.evals.pairs import ScoredPairs, calibration, interval, pair_report, wilson


def pairs(margins: list[float], lengths: list[tuple[int, int]], prompts: list[int]) -> ScoredPairs:
    better, worse = (np.array(side, np.int64) for side in zip(*lengths, strict=True))
    return ScoredPairs(np.array(margins), np.zeros(len(margins)), better, worse, np.array(prompts))


def test_a_report_by_hand() -> None:
    report = pair_report(pairs([1.0, -1.0, 0.0, 2.0], [(9, 3), (2, 8), (2, 8), (5, 5)], [0, 1, 2, 3]))
    assert report["accuracy"] == 2.5 / 4
    assert report["margin"] == 0.5
    assert (report["length_rule"], report["length_accuracy"]) == ("shorter", 2.5 / 4)
    assert report["by_length"] == [
        {"where": "the better answer is longer", "pairs": 1, "accuracy": 1.0},
        {"where": "about as long", "pairs": 1, "accuracy": 1.0},
        {"where": "the better answer is shorter", "pairs": 2, "accuracy": 0.25},
    ]


def test_calibration_by_hand() -> None:
    odds = math.log(3)  # a probability of 0.75
    error, bins = calibration(np.array([odds, odds, odds, -odds]))
    assert error == pytest.approx(0.0, abs=1e-12)
    assert bins == [{"probability": pytest.approx(0.75), "accuracy": 0.75, "pairs": 4}]
    assert calibration(np.array([odds, -odds]))[0] == pytest.approx(0.25)
    assert calibration(np.array([1e6, -1e6]))[0] == pytest.approx(0.5)


def test_wilson_is_that_of_the_books() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@given(st.integers(1, 500), st.integers(0, 500))
def test_wilson_holds_the_share(count: int, right: int) -> None:
    share = min(right, count) / count
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_pairs_of_one_prompt_are_no_more_evidence_than_one() -> None:
    right = np.array([1.0, 0.0] * 20)
    alone = interval(right, np.arange(40))
    ten_times = interval(np.repeat(right, 10), np.repeat(np.arange(40), 10))
    assert ten_times[1] - ten_times[0] == pytest.approx(alone[1] - alone[0], rel=0.15)


@pytest.mark.parametrize("right", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.5, 0.5, 0.5]])
def test_one_prompt_is_worth_one_pair(right: list[float]) -> None:
    assert interval(np.array(right), np.zeros(3, np.int64)) == wilson(sum(right) / 3, 1)


def test_prompts_that_are_all_right_leave_a_doubt() -> None:
    assert interval(np.ones(12), np.repeat(np.arange(4), 3)) == wilson(1.0, 4)


def test_pairs_of_one_prompt_each_and_pairs_that_do_not_depend_on_it_count_whole() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0])
    assert interval(right, np.array([7, 1, 4, 2])) == pytest.approx(wilson(0.75, 4))
    assert interval(np.tile([1.0, 0.0], 5), np.repeat(np.arange(5), 2)) == pytest.approx(wilson(0.5, 10))


def test_a_classifier_by_hand() -> None:
    logits = np.log(np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0]]) + 1e-12)
    report = class_report(logits, np.array([0, 1, 1, 1]), ["a", "b", "c"])
    assert report["accuracy"] == 0.75
    assert report["most_frequent_class"] == 0.75
    assert report["f1_by_class"] == {"a": pytest.approx(2 / 3), "b": pytest.approx(0.8), "c": None}
    assert report["f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert report["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.8) + math.log(0.7)) / 4)
