"""Scores on their way from reward sources to training."""

import pytest
import torch

from ftune.rl.moments import RunningMoments
from ftune.rl.scores import ScoreRules, processed

NAN = float("nan")


def moments_of(*values):
    moments = RunningMoments()
    moments.update(torch.tensor(values))
    return moments


def scores(raw, stopped, moments=None, **rules):
    return processed(torch.tensor(raw), torch.tensor(stopped), ScoreRules(**rules), moments or RunningMoments())


def test_without_rules_scores_stay_as_they_are():
    assert scores([1.0, -9.0, NAN], [True, False, False]).tolist() == pytest.approx([1.0, -9.0, NAN], nan_ok=True)


def test_every_rule_in_its_order():
    """Bias 1, standard deviation 2, clip 3, penalty 1: each expected number is worked out by hand."""
    found = scores(
        [3.0, 11.0, 11.0, -11.0, NAN],
        [True, True, False, False, False],
        moments_of(0.0, 4.0),  # without the bias
        bias=1.0,
        normalize="scale",
        clip=3.0,
        missing_eos="subtract",
        missing_eos_value=1.0,
    )
    #      (3-1)/2  (11-1)/2=5 -> 3  3 - 1  -6 -> -3 - 1
    assert found.tolist() == pytest.approx([1.0, 3.0, 2.0, -4.0, NAN], nan_ok=True)


@pytest.mark.parametrize("bias", [0.0, 7.0])
def test_zscore_takes_the_running_mean_away(bias):
    moments = moments_of(1.0 - bias, 5.0 - bias)
    found = scores([1.0, 3.0, 5.0], [True, True, True], moments, bias=bias, normalize="zscore")
    assert found.tolist() == pytest.approx([-1.0, 0.0, 1.0])


def test_an_unfinished_response_gets_the_penalty_as_its_score():
    rules = {"clip": 0.5, "missing_eos": "replace", "missing_eos_value": 1.0}
    found = scores([4.0, 4.0, NAN], [True, False, False], **rules)
    assert found.tolist() == pytest.approx([0.5, -1.0, NAN], nan_ok=True)


@pytest.mark.parametrize("normalize", ["scale", "zscore"])
@pytest.mark.parametrize("seen", [[], [NAN, NAN], [2.0, 2.0, 2.0], [2.0, 2.0000002]])
def test_constant_scores_are_not_divided_by_nothing(normalize, seen):
    moments = moments_of(*seen) if seen else RunningMoments()
    found = scores([2.0, 3.0], [True, True], moments, normalize=normalize)
    assert torch.isfinite(found).all()
    assert float(found[1] - found[0]) == pytest.approx(1.0)


def test_scores_that_are_missing_stay_out_of_the_moments():
    moments = moments_of(1.0, NAN, 5.0)
    assert (moments.count, moments.mean, moments.std) == (2, 3, 2)
