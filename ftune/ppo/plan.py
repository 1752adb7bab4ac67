"""How a run is meant to go, and how it went."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much of it, and how often what."""

    iterations: int
    batch_size: int
    """Completions of one iteration on this rank."""
    completions_per_prompt: int
    warmup_iterations: int
    """Of the learning rate."""
    schedule: str
    value_warmup_iterations: int
    eval_every: int | None
    eval_completions: int
    """Completions of each held-out prompt."""
    checkpoint_every: int | None
    checkpoints_kept: int
    log_every: int
    samples_every: int | None
    samples: int
    """Samples shown and written at a time."""
    seed: int
    half_precision: bool
    """Whether products are in bf16, so that equal computations are equal up to its rounding."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    iteration: int
    iterations: int
    stopped_by: str = ""
    """Name of the signal that stopped it early."""
    ended_by: str = ""
    """The guard that ended it, in words."""
    kept_iteration: int | None = None
    """The iteration whose policy is the result, where that is not the last one."""


def due(iteration: int, every: int | None) -> bool:
    """Whether something that comes every so many iterations comes at this one."""
    return every is not None and iteration % every == 0
