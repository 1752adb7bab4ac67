"""When to stop before the reward is hacked."""

from dataclasses import dataclass
from typing import Self

EPOCH_SLACK = 1.5
"""The approximate KL of a minibatch is noisy: it may exceed its target by this factor."""


def stops_epoch(approx_kl: float, target: float) -> bool:
    """Whether the rest of a rollout's minibatches is skipped: KL(old | new) above 1.5 times its target.

    `approx_kl` is the mean over real tokens of all ranks, so that every rank stops at once. A KL that is not a number
    stops too.
    """
    return not approx_kl <= EPOCH_SLACK * target


@dataclass(slots=True)
class KlGuard:
    """Notices a policy that stays too far from the reference."""

    max_kl: float
    """Nats a sequence."""
    patience: int
    """Rollouts in a row above `max_kl` that are too many."""
    above: int = 0
    """Rollouts in a row above `max_kl` so far."""

    def exceeded(self, kl: float) -> bool:
        """Take in the mean sequence KL of one rollout; True once `patience` in a row were above. NaN is above."""
        self.above = 0 if kl <= self.max_kl else self.above + 1
        return self.above >= self.patience

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps; the limits come from the recipe."""
        return {"above": self.above}

    @classmethod
    def from_state(cls, state: dict[str, int], max_kl: float, patience: int) -> Self:
        """The guard that `state` described, under the limits given."""
        return cls(max_kl, patience, state["above"])
