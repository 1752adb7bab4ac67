"""The clipped losses of PPO (Schulman et al. 2017, arXiv 1707.06347).

They are sums over real tokens: the caller divides by the number of real tokens in the whole minibatch, over all its
micro-batches and ranks. Means of micro-batches, averaged, would weigh tokens of short responses more.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ftune.rl.kl import LARGEST_LOG_RATIO, approximate_kl


class PolicyLoss(NamedTuple):
    """Sums over real tokens; only `loss` has a gradient."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose ratio was cut."""
    approx_kl: Tensor
    """KL(old | new) in nats, estimated as in `ftune.rl.kl.approximate_kl`."""
    ratio: Tensor
    ratio_max: Tensor
    """The largest ratio, not a sum; 0 where no token is real."""


class ValueLoss(NamedTuple):
    """Sums over real tokens; only `loss` has a gradient."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose value was cut."""


def policy_loss(
    logprobs_BT: Tensor,
    old_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate objective, to be made small: arXiv 1707.06347, equation 7.

    sum m * max(-A * rho, -A * clip(rho, 1 - clip_low, 1 + clip_high)), rho = exp(logprobs - old); the log-ratio is cut
    to [-20, 20]. With `dual_clip` c > 1, the loss of a token with A < 0 is at most -c * A (Ye et al. 2020, arXiv
    1912.09729, equation 5). Tensors behind the end may hold anything.
    """
    real_BT = mask_BT.bool()
    advantages_BT = advantages_BT.masked_fill(~real_BT, 0.0)
    log_ratio_BT = (logprobs_BT - old_BT).masked_fill(~real_BT, 0.0)
    ratio_BT = log_ratio_BT.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

    free_BT = -advantages_BT * ratio_BT
    cut_BT = -advantages_BT * ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = torch.maximum(free_BT, cut_BT)
    if dual_clip is not None:
        bounded_BT = torch.minimum(loss_BT, -dual_clip * advantages_BT)
        loss_BT = torch.where(advantages_BT < 0, bounded_BT, loss_BT)

    real_ratio_BT = ratio_BT.detach().masked_fill(~real_BT, 0.0)
    log_ratio_BT = log_ratio_BT.detach()
    return PolicyLoss(
        loss_BT.sum(),
        clipped=(cut_BT > free_BT).sum().float(),
        approx_kl=approximate_kl(log_ratio_BT, torch.zeros_like(log_ratio_BT)).sum(),
        ratio=real_ratio_BT.sum(),
        ratio_max=real_ratio_BT.max(),
    )


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip_range: float | None
) -> ValueLoss:
    """Half the squared error of the values; the clipped form is that of the code of arXiv 1707.06347.

    sum m / 2 * max((V - G)^2, (Vc - G)^2), Vc = old + clip(V - old, -clip_range, clip_range); without `clip_range`
    sum m / 2 * (V - G)^2. Tensors behind the end may hold anything.
    """
    real_BT = mask_BT.bool()
    values_BT, old_values_BT, returns_BT = (
        tensor.masked_fill(~real_BT, 0.0) for tensor in (values_BT, old_values_BT, returns_BT)
    )
    free_BT = (values_BT - returns_BT).square()
    if clip_range is None:
        return ValueLoss(free_BT.sum() / 2, free_BT.new_zeros(()))
    near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip_range, clip_range)
    cut_BT = (near_BT - returns_BT).square()
    return ValueLoss(torch.maximum(free_BT, cut_BT).sum() / 2, (cut_BT > free_BT).sum().float())
