"""What every rollout engine provides: completions of prompts under the policy as it is now."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from ftune.core.section import Section

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. PPO's ratio is exact only for pure sampling: `top_k` 0 and `top_p` 1."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion."""

    prompt_ids: list[int]
    token_ids: list[int]
    """At least one; the stop token is the last where `stopped`, and there is none before it."""
    stopped: bool
    """Whether a stop token ended it, not `max_new_tokens`."""
    logprobs: list[float] | None = None
    """The engine's own log-probability of each token, at the sampling temperature: only to be compared with those that
    are computed again, never to train on."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an engine needs to know of the policy. `model` is changed in place by training."""

    model: "PreTrainedModel | PeftModel"
    """Its active adapter is the policy's; in evaluation mode."""
    pad_id: int
    stop_ids: tuple[int, ...]
    autocast: "torch.dtype | None" = None
    """The number format of products on a GPU, as in training."""


class Engine(Protocol):
    """An open engine."""

    name: str
    """For people: which engine it is, and why where it was chosen."""

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Rollout]:
        """One completion of each prompt (token ids), in their order.

        The draws depend on `seed` alone: the random state of the process is left as it was.
        """
        ...

    def policy_changed(self) -> None:
        """The optimiser has stepped since the last call."""
        ...

    def rest(self) -> None:
        """Give back memory that only generation needs; training follows."""
        ...


class RolloutEngine(Section):
    """How completions are made: a subclass is one file of this folder, with a `type` field."""

    batch_size: Count = 64
    """Completions of one iteration, over all devices."""

    completions_per_prompt: Count = 1
    """Completions of each prompt; `batch_size` is a multiple of it."""

    max_new_tokens: Count = 128
    """Longest completion in tokens."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; log-probabilities are taken at it everywhere."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from the likeliest k tokens; 0 draws from all, which PPO's ratio assumes."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens of this total probability; 1 draws from all, which PPO's ratio assumes."""

    @abstractmethod
    def open(self, policy: Policy) -> Engine:
        """The engine at work. Raises LaunchError or ModelError when it cannot work with this model or machine."""

    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_k, self.top_p)
