"""When an iteration's updates have gone far enough."""

EPOCH_SLACK = 1.5
"""The approximate KL of a minibatch is noisy: it may exceed its target by this factor."""


def stops_epoch(approx_kl: float, target: float) -> bool:
    """Whether the rest of a rollout's minibatches is skipped: KL(old | new) above 1.5 times its target.

    `approx_kl` is the mean over real tokens of all ranks, so that every rank stops at once. A KL that is not a number
    stops too.
    """
    return not approx_kl <= EPOCH_SLACK * target
