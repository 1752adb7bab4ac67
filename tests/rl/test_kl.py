"""Estimators of the KL divergence, and the controller of its price."""

import math

import pytest
import torch

from ftune.rl.kl import adapted_coefficient, approximate_kl, kl_estimate

POLICY = torch.tensor([[-1.0, -2.0, -0.5]])
REFERENCE = torch.tensor([[-1.2, -1.5, -0.5]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.2, -0.5, 0.0]),
        ("k2", [0.02, 0.125, 0.0]),
        ("k3", [0.0187308, 0.1487213, 0.0]),
        ("abs", [0.2, 0.5, 0.0]),
    ],
)
def test_numbers_by_hand(estimator, expected):
    estimate = kl_estimate(POLICY, REFERENCE, estimator)
    torch.testing.assert_close(estimate, torch.tensor([expected]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_average_to_the_divergence(estimator):
    """The mean over the policy's own distribution, token by token, is the sum that defines KL."""
    logp = torch.log_softmax(torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0)
    logq = torch.log_softmax(torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0)
    divergence = sum(math.exp(p) * (p - q) for p, q in zip(logp.tolist(), logq.tolist(), strict=True))
    mean = (logp.exp() * kl_estimate(logp, logq, estimator)).sum()
    assert float(mean) == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_far_policies_give_finite_numbers(difference):
    near, far = torch.zeros(1, 1), torch.full((1, 1), difference)
    assert float(kl_estimate(far, near, "k3")) == 10  # for 100: exp(-20) - 1 + 20, cut to 10
    assert float(kl_estimate(far, near, "k1")) == difference
    assert torch.isfinite(approximate_kl(far, near)).all()


def test_approximate_kl_is_ratio_minus_one_minus_its_logarithm():
    new, old = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.1, -1.5, -3.0])
    ratios = [math.exp(0.1), math.exp(-0.5), 1.0]
    expected = torch.tensor([ratio - 1 - math.log(ratio) for ratio in ratios])
    torch.testing.assert_close(approximate_kl(new, old), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (9.0, 0.200256),  # an error of 0.5 counts as 0.2
        (5.0, 0.1997867),
        (6.0, 0.2),
        (0.0, 0.199744),  # -1 counts as -0.2
    ],
)
def test_the_controller_by_hand(kl, expected):
    assert adapted_coefficient(0.2, kl, target=6.0, horizon=10_000, episodes=64) == pytest.approx(expected, abs=5e-8)
