"""Rollouts by transformers' continuous batching: a paged cache, and a row that ends makes room for the next."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.ppo.rollout.base import Policy, RolloutEngine

if TYPE_CHECKING:
    from ftune.ppo.rollout.engines.paged import PagedEngine


class Continuous(RolloutEngine):
    """Pays where completions differ much in length; for short ones of one length `generate` is faster."""

    type: Literal["continuous"] = "continuous"
    """transformers' continuous batching with a paged cache."""

    memory_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the memory free at the time that the cache may take; training needs the rest."""

    def open(self, policy: Policy) -> "PagedEngine":
        """The engine at work. Raises ModelError for a model that continuous batching cannot run."""
        from ftune.ppo.rollout.engines.paged import PagedEngine

        return PagedEngine(policy, self.memory_fraction)
