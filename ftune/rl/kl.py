"""The distance between two policies, estimated from tokens that one of them sampled, and its price."""

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "abs"]

LARGEST_LOG_RATIO = 20.0
"""Differences of log-probabilities are cut to this before they are exponentiated: exp(20) is finite, and far off."""

LARGEST_K3 = 10.0


def kl_estimate(logprobs_BT: Tensor, reference_BT: Tensor, estimator: Estimator) -> Tensor:
    """Estimate of KL(policy | reference) in nats at each token; the tokens come from the policy.

    With d = logprobs - reference (Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html):
    `k1` d, unbiased; `k2` d^2 / 2, biased but of low variance; `k3` exp(-d) - 1 + d, unbiased and never negative;
    `abs` |d|. Of k3, which grows exponentially, d is cut to [-20, 20] and the result to [-10, 10].

    Every token is treated alike: the caller masks.
    """
    difference_BT = logprobs_BT - reference_BT
    match estimator:
        case "k1":
            return difference_BT
        case "k2":
            return difference_BT.square() / 2
        case "k3":
            return approximate_kl(reference_BT, logprobs_BT).clamp(-LARGEST_K3, LARGEST_K3)
        case "abs":
            return difference_BT.abs()


def approximate_kl(logprobs: Tensor, old: Tensor) -> Tensor:
    """Estimate (rho - 1) - log(rho) of KL(old | new) in nats, rho = exp(logprobs - old), at tokens from the old policy.

    It is `k3` seen from the policy that sampled, which is the old one. Elementwise; log(rho) is cut to [-20, 20].
    """
    log_ratio = (logprobs - old).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


def adapted_coefficient(coefficient: float, kl: float, target: float, horizon: float, episodes: int) -> float:
    """The price of KL after `episodes` responses (of all ranks) whose mean sequence KL was `kl` nats.

    coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon): Ziegler et al. 2019, arXiv 1909.08593,
    section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)
