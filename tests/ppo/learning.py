"""Fixed rollouts, and learners that can be looked into, for the tests of the update."""

from typing import Any

import torch
from accelerate import Accelerator

from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.experience import Experience, Judged, experience, judge
from ftune.ppo.sequences import Sequences
from ftune.ppo.settings import Algorithm
from ftune.ppo.update import Learner, Ptx
from ftune.rl.moments import Reduce, identity
from tests.ppo.models import VOCABULARY, sequences

FREE = 1e9
"""A limit on the norm of gradients that none reaches."""


class Recording(torch.optim.SGD):
    """Remembers the gradients of each step."""

    def __init__(self, actor: ActorCritic, learning_rate: float = 0.0) -> None:
        super().__init__(actor.trainable_parameters(), lr=learning_rate)
        self.actor = actor
        self.seen: list[dict[str, torch.Tensor]] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step, and a copy of what it was taken from."""
        named = self.actor.trainable().items()
        self.seen.append({name: value.grad.clone() for name, value in named if value.grad is not None})
        super().step(closure)


def learner(
    actor: ActorCritic,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    target_kl: float | None = None,
    max_grad_norm: float = FREE,
    ptx: Ptx | None = None,
    accelerator: Accelerator | None = None,
    wrapped: Any = None,
    reduce: Reduce = identity,
    **settings: Any,
) -> Learner:
    """A learner whose optimiser records; `settings` are those of the algorithm."""
    return Learner(
        actor=wrapped or actor,
        inner=actor,
        optimizer=optimizer or Recording(actor),
        accelerator=accelerator or Accelerator(cpu=True),
        settings=Algorithm.model_validate({"minibatch_size": 8, "micro_batch_size": 8, "epochs": 1, **settings}),
        reduce=reduce,
        max_grad_norm=max_grad_norm,
        target_kl=target_kl,
        ptx=ptx,
    )


def judged(actor: Any, batch: Sequences | None = None) -> Judged:
    """Fixed rollouts of ragged lengths, as this policy sees them."""
    return judge(actor, batch or sequences(8), 3, reference=True)


def learned_from(
    found: Judged, *, reduce: Reduce = identity, offset: int = 0, step: int = 1, **settings: Any
) -> Experience:
    """Experience with scores that follow from each rollout's place, of which each third was cut off."""
    places = torch.arange(len(found.mask_BT)) * step + offset
    return experience(
        found,
        torch.sin(1.0 + places),
        places % 3 != 0,
        settings=Algorithm.model_validate({"minibatch_size": 8, **settings}),
        estimator="k1",
        coefficient=0.1,
        reduce=reduce,
    )


def text_batch(number: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ordinary text of equally many tokens; `number` counts batches of `rows` rows."""
    ids = torch.randint(3, VOCABULARY, (8, 6), generator=torch.Generator().manual_seed(9))
    chosen = ids[torch.arange(number * rows, (number + 1) * rows) % len(ids)]
    return chosen, chosen
