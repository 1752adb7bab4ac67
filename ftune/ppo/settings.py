"""The numbers of the algorithm. They are sections of the recipe, and the loop reads them as they are."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.core.section import Section

if TYPE_CHECKING:
    from ftune.rl.scores import ScoreRules

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Algorithm(Section):
    """One iteration: rollouts, then epochs of clipped updates on them."""

    epochs: Count = 2
    """Passes over the rollouts of an iteration."""

    minibatch_size: Count = 32
    """Rollouts of one optimiser step, over all devices."""

    micro_batch_size: Count = 8
    """Rollouts that a device computes at once; changes nothing but memory and speed."""

    gamma: Share = 1.0
    """Discount of later rewards."""

    lam: Share = 0.95
    """Lambda of generalised advantage estimation (arXiv:1506.02438): 1 has no bias, 0 the least variance."""

    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The policy's ratio is clipped to 1 minus and 1 plus this (arXiv:1707.06347)."""

    clip_range_high: Positive | None = None
    """Another upper range than `clip_range`."""

    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound the loss of bad tokens at this many times their advantage (arXiv:1912.09729)."""

    value_clip_range: Positive | None = 0.2
    """The value is clipped to so much about its old prediction; null does not clip."""

    value_coefficient: NotNegative = 0.1
    """Weight of the value loss."""

    entropy_coefficient: NotNegative = 0.0
    """Weight of the entropy bonus."""

    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0 and variance 1 over all tokens of all devices."""

    whiten_rewards: bool = False
    """Scale rewards to variance 1 before advantages are estimated."""

    truncated: Literal["terminal", "bootstrap", "mask"] = "terminal"
    """A completion cut by `max_new_tokens` is taken as ended, goes on with the value of its last state, or is left out
    of the losses."""

    max_ratio: Positive = 10.0
    """A minibatch whose mean ratio is above this is skipped."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, slower."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.minibatch_size % self.micro_batch_size:
            raise ValueError(
                f"minibatch_size {self.minibatch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Kl(Section):
    """The penalty for leaving the reference, inside the reward of each token."""

    coefficient: NotNegative = 0.05
    """Weight of the penalty; the first one with an adaptive controller."""

    estimator: Literal["k1", "k2", "k3", "abs"] = "k1"
    """What is penalised, with d = log-probability minus the reference's: d, d^2/2, exp(-d)-1+d, or |d|."""

    controller: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive` moves the coefficient towards `target` (arXiv:1909.08593)."""

    target: Positive = 6.0
    """KL that the adaptive controller aims at, in nats a completion."""

    horizon: Positive = 10000.0
    """How slowly it moves, in completions."""

    @model_validator(mode="after")
    def _adaptive_only(self) -> Self:
        if self.controller == "fixed" and {"target", "horizon"} & self.model_fields_set:
            raise ValueError("'target' and 'horizon' belong to 'controller: adaptive'; add it or remove them")
        if self.controller == "adaptive" and self.coefficient == 0:
            raise ValueError("coefficient: an adaptive controller multiplies it, so it cannot start at 0")
        return self


class Score(Section):
    """What becomes of the sum of the rewards before it is trained on."""

    normalize: Literal["none", "scale", "zscore"] = "none"
    """Divide by the running standard deviation, or also subtract the running mean."""

    bias: float = 0.0
    """Subtracted first, for instance the mean score of good answers."""

    clip: Positive | None = 5.0
    """Scores are clipped to plus and minus this; null does not clip."""

    missing_eos: Literal["none", "subtract", "replace"] = "none"
    """A completion without a stop token loses `missing_eos_value`, or gets minus it as its score."""

    missing_eos_value: NotNegative = 1.0
    """By how much."""

    @model_validator(mode="after")
    def _value_is_used(self) -> Self:
        if self.missing_eos == "none" and "missing_eos_value" in self.model_fields_set:
            raise ValueError("missing_eos_value does nothing with 'missing_eos: none'; say subtract or replace")
        return self

    @model_validator(mode="after")
    def _bias_remains(self) -> Self:
        if self.normalize == "zscore" and self.bias:
            raise ValueError(
                "bias: 'normalize: zscore' subtracts the running mean, so a bias changes nothing; remove it"
            )
        return self

    def rules(self) -> "ScoreRules":
        """As the pure functions take it."""
        from ftune.rl.scores import ScoreRules

        return ScoreRules(
            normalize=self.normalize,
            bias=self.bias,
            clip=self.clip,
            missing_eos=self.missing_eos,
            missing_eos_value=self.missing_eos_value,
        )


class Guard(Section):
    """What stops a policy that games its reward."""

    target_kl: Positive | None = 0.1
    """KL a token between old and new policy: 1.5 times this ends the iteration's updates on all devices."""

    max_kl: Positive | None = 30.0
    """KL to the reference, in nats a completion: above it for `patience` iterations, the run ends and the best policy
    is kept."""

    patience: Count = 2
    """Iterations above `max_kl` in a row that end the run."""

    min_entropy: Positive | None = None
    """Mean entropy a token, in nats: below it for `patience` iterations, the run ends and the best policy is kept."""

    keep_best: bool = True
    """The result is the policy with the best held-out score among those with a KL of at most `max_kl`; false keeps the
    last one."""


class Value(Section):
    """The value function, which predicts the score from the state before each token."""

    type: Literal["auto", "trunk", "adapter", "copy"] = "auto"
    """`trunk`: a head on the policy's own hidden states, the cheapest; `adapter`: an adapter and a head of its own on
    the shared base; `copy`: a model of its own, for `memory: separate`. `auto` takes `trunk`."""

    detach: bool = False
    """With `trunk`: the value loss trains the head only."""

    learning_rate: Positive | None = None
    """Learning rate of the value's own parameters; 5 times the policy's by default."""

    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    """First iterations in which only the value trains."""

    @model_validator(mode="after")
    def _detached_trunk(self) -> Self:
        if self.detach and self.type not in ("auto", "trunk"):
            raise ValueError(f"detach: 'type: {self.type}' shares no trunk with the policy; remove it")
        return self
