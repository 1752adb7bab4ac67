"""From scores of whole responses to advantages of tokens."""

import torch
from torch import Tensor


def token_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """The reward of each token: -coefficient * kl, and at the last real token the score of the response on top.

    (Ziegler et al. 2019, arXiv 1909.08593, equation 2, spread over tokens as in arXiv 2009.01325.) Zero behind the end.
    A row without real tokens has no reward at all, whatever its score.
    """
    real_BT = mask_BT.bool()
    rewards_BT = (-coefficient * kl_BT).masked_fill(~real_BT, 0.0)
    return torch.where(_last_BT(real_BT), rewards_BT + scores_B[:, None], rewards_BT)


@torch.no_grad()
def gae(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    gamma: float,
    lam: float,
    last_values_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that the value function learns.

    delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lam * A_{t+1};  G_t = A_t + V_t  (Schulman et al.
    2016, arXiv 1506.02438, equations 11, 12 and 16). V_t is the value of the state before token t. Behind the last real
    token, V is `last_values_B` (of responses that were cut off; 0 for those that ended) or 0.

    Gives A and G without gradient, zero behind the end.
    """
    real_BT = mask_BT.bool()
    next_values_BT = torch.zeros_like(values_BT)
    next_values_BT[:, :-1] = values_BT[:, 1:]
    after_end_BT = torch.zeros_like(values_BT) if last_values_B is None else last_values_B[:, None].expand_as(values_BT)
    next_values_BT = torch.where(_last_BT(real_BT), after_end_BT, next_values_BT)
    deltas_BT = (rewards_BT + gamma * next_values_BT - values_BT).masked_fill(~real_BT, 0.0)

    # Turned, so that each step works on contiguous memory. Deltas behind the end are 0, and so are advantages there.
    advantages_TB = deltas_BT.T.contiguous()
    steps = advantages_TB.unbind()
    for here, following in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        here.add_(following, alpha=gamma * lam)
    advantages_BT = advantages_TB.T.contiguous()
    return advantages_BT, advantages_BT + values_BT.masked_fill(~real_BT, 0.0)


def _last_BT(real_BT: Tensor) -> Tensor:
    """True at the last real token of each row."""
    followed_BT = torch.zeros_like(real_BT)
    followed_BT[:, :-1] = real_BT[:, 1:]
    return real_BT & ~followed_BT
