"""Rollouts by transformers' `generate`: works with every model on every device."""

from typing import TYPE_CHECKING, Literal

from ftune.ppo.rollout.base import Count, Policy, RolloutEngine

if TYPE_CHECKING:
    from ftune.ppo.rollout.engines.padded import PaddedEngine


class Generate(RolloutEngine):
    """Prompts of like length together, padded on the left; the adapter stays unmerged."""

    type: Literal["generate"] = "generate"
    """transformers' generate: the default on a CPU."""

    micro_batch_size: Count = 32
    """Prompts that a device completes at once; changes memory and speed, and which draws a prompt gets."""

    def open(self, policy: Policy) -> "PaddedEngine":
        """The engine at work. Raises ModelError for adapters of virtual tokens."""
        from ftune.ppo.rollout.engines.padded import PaddedEngine

        return PaddedEngine(policy, self.micro_batch_size)
