"""The prompts of a run and the order in which they come: known from the seed alone, so there is nothing to save."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.ppo.rollout.base import Rollout
from ftune.rewards.base import Sample


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy is asked."""

    ids: list[int]
    example: Answered
    """Without an answer."""
    columns: Mapping[str, object] = field(default_factory=dict)
    reference: str | None = None
    """The row's own answer, where it has one."""
    origin: str = ""
    """`file:line`."""

    @property
    def text(self) -> str:
        """What a person is shown of it: the last turn of a conversation, or the text."""
        if isinstance(self.example, Conversation):
            return self.example.messages[-1].content if self.example.messages else ""
        return self.example.prompt

    def answered(self, completion: str) -> Answered:
        """The conversation, or the text, with this completion."""
        if isinstance(self.example, Conversation):
            return replace(self.example, messages=(*self.example.messages, Message("assistant", completion)))
        return PromptCompletion(self.example.prompt, completion)

    def sample(self, rollout: Rollout, completion: str) -> Sample:
        """What the rewards are asked about."""
        return Sample(
            example=self.answered(completion),
            completion=completion,
            token_ids=rollout.token_ids,
            stopped=rollout.stopped,
            columns=self.columns,
            reference=self.reference,
            origin=self.origin,
        )


def drawn(prompts: Sequence[Prompt], iteration: int, count: int, seed: int) -> list[Prompt]:
    """The `count` prompts of an iteration (from 0): a new order in every pass, every prompt once a pass."""
    places = range(iteration * count, (iteration + 1) * count)
    orders: dict[int, np.ndarray] = {}
    chosen = []
    for place in places:
        epoch, number = divmod(place, len(prompts))
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, 1, epoch]).permutation(len(prompts))
        chosen.append(prompts[int(orders[epoch][number])])
    return chosen
