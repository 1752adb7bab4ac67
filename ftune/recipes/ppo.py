"""`ftune ppo`: a policy trained on rewards, kept near its reference."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from ftune.backends.auto import Auto as AutoBackend
from ftune.backends.base import Backend
from ftune.backends.choice import AnyBackend
from ftune.backends.fsdp import Fsdp
from ftune.core.section import Location
from ftune.core.several import several
from ftune.core.variants import union_of
from ftune.peft.base import PeftMethod
from ftune.peft.lora import Lora
from ftune.ppo.rollout.auto import Auto
from ftune.ppo.rollout.base import RolloutEngine
from ftune.ppo.settings import Algorithm, Guard, Kl, Score, Value
from ftune.recipes.backend_checks import check_together
from ftune.recipes.base import Recipe, RunOptions
from ftune.recipes.ppo_sections import (
    PolicyModel,
    PpoCheckpoint,
    PpoEval,
    PpoLog,
    PpoOptim,
    PpoSchedule,
    Prompts,
    PtxText,
)
from ftune.rewards.base import RewardSource
from ftune.rewards.model import RewardModel

LARGEST_CHANGE = 0.2
"""Of the coefficient of KL in a whole horizon, as a share: see `ftune.rl.kl.adapted_coefficient`."""

AnyReward = union_of(RewardSource)

LEARNING_RATES = {"lora": 5e-5, "full": 1e-6}
"""What `optim.learning_rate: auto` means. A model of 135M parameters wants ten times as much with LoRA."""


class PpoRecipe(Recipe):
    """A recipe of `ftune ppo`."""

    type: Literal["ppo"] = "ppo"
    """The command."""

    output_dir: str = "runs/recipe"
    """Folder of the run; by default `runs/` and the recipe's file name."""

    model: PolicyModel
    """The model that becomes the policy."""

    data: Prompts
    """The prompts."""

    reward_model: str | None = None
    """A reward model (a run of `ftune rm`, a folder or a hub id): short for an entry `{type: model, path: ...}` under
    `rewards`, and what `--reward-model` sets."""

    rewards: list[AnyReward] = Field(default_factory=list)  # type: ignore[valid-type]
    """What completions are rewarded for: the weighted sum of these sources."""

    gold: list[AnyReward] = Field(default_factory=list)  # type: ignore[valid-type]
    """Rewards that are only logged, to see whether the trained ones are being gamed."""

    peft: union_of(PeftMethod, default="lora") = Lora()  # type: ignore[valid-type]
    """What of the policy trains: `lora`, or `full` with `memory: separate`."""

    memory: Literal["auto", "shared", "separate"] = "auto"
    """`shared`: policy, reference, value and reward adapters on one frozen base; `separate`: full copies, for full
    fine-tuning. `auto` takes what the method needs."""

    value: Value = Value()
    """The value function."""

    rollout: union_of(RolloutEngine, default="auto") = Auto()  # type: ignore[valid-type]
    """How completions are made; without a `type` the fastest engine that works here (`auto`)."""

    score: Score = Score()
    """From rewards to the score that is trained on."""

    kl: Kl = Kl()
    """The penalty for leaving the reference."""

    ppo: Algorithm = Algorithm()
    """The update."""

    guard: Guard = Guard()
    """Against gaming the reward."""

    ptx: PtxText | None = None
    """Ordinary text that is trained on too; none by default."""

    optim: PpoOptim = PpoOptim()
    """The optimiser."""

    schedule: PpoSchedule = PpoSchedule()
    """How long."""

    eval: PpoEval = PpoEval()
    """Held-out prompts while training."""

    checkpoint: PpoCheckpoint = PpoCheckpoint()
    """What is kept to resume from."""

    log: PpoLog = PpoLog()
    """What is shown and written."""

    backend: AnyBackend = AutoBackend()
    """Where it computes."""

    @property
    def sources(self) -> list[RewardSource]:
        """All rewards that are trained on."""
        named = [RewardModel(path=self.reward_model)] if self.reward_model else []
        return [*named, *self.rewards]

    @property
    def functions(self) -> dict[str, str]:
        """Of each reward function its file's hash. Raises RewardError for a file that cannot be read."""
        return {source.function: source.sha256() for source in (*self.sources, *self.gold) if source.type == "function"}

    @property
    def shared(self) -> bool:
        """Whether all roles stand on one frozen base."""
        return self.memory == "shared" or (self.memory == "auto" and self.peft.type == "lora")

    @property
    def learning_rate(self) -> float:
        """The policy's peak learning rate."""
        given = self.optim.learning_rate
        return LEARNING_RATES[self.peft.type] if given == "auto" else given

    @model_validator(mode="after")
    def _rewarded(self) -> Self:
        if not self.sources:
            raise ValueError("rewards: there is nothing to train on; add a source, or give --reward-model PATH")
        if all(source.weight == 0 for source in self.sources):
            raise ValueError("rewards: every source has weight 0; rewards that are only logged go under 'gold'")
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.peft.type not in LEARNING_RATES:
            raise ValueError(f"peft: PPO trains 'lora' or 'full', not '{self.peft.type}'")
        if isinstance(self.peft, Lora):
            self._check_lora(self.peft)
        elif self.memory == "shared":
            raise ValueError("memory: 'shared' needs a frozen base, and 'peft: full' trains it; use 'separate'")
        elif self.model.quantization.type != "none":
            raise ValueError(f"model.quantization: {self.peft.limits()[self.model.quantization.type]}")
        if self.peft.type == "full" and self.model.adapter is not None:
            raise ValueError("model.adapter: full fine-tuning starts from a whole model; merge the adapter first")
        if self.value.type == "adapter" and not self.shared:
            raise ValueError("value.type: 'adapter' stands on a shared base; use 'trunk' or 'copy'")
        if self.value.type == "copy" and self.shared:
            raise ValueError("value.type: 'copy' goes with 'memory: separate'; use 'trunk' or 'adapter'")
        self.check_backend(self.backend)
        return self

    def check_backend(self, backend: Backend) -> None:
        """Raises ValueError for what the recipe cannot do on a backend: its own, or what `auto` became."""
        if "zero" in backend.shards():
            raise ValueError(
                "backend.type: DeepSpeed steps within the backward pass, where PPO can neither skip nor end updates; "
                "use 'ddp', right for LoRA, or 'fsdp' where the model does not fit on one device"
            )
        check_together(backend, self.peft.limits(), self.optim.optimizer, self.model.quantization.type)
        if isinstance(backend, Fsdp):
            self._check_fsdp(backend)
        for key, size in (
            ("rollout.batch_size", self.rollout.batch_size),
            ("ppo.minibatch_size", self.ppo.minibatch_size),
        ):
            if (count := backend.known_processes) is not None and size % count:
                raise ValueError(f"{key}: {size} cannot be divided among {count} processes; use a multiple of {count}")

    def _check_fsdp(self, backend: Fsdp) -> None:
        if backend.offload != "none":
            raise ValueError("backend.offload: PPO keeps shards on their device; use 'none'")
        if backend.sharding != "full":
            raise ValueError("backend.sharding: PPO's rollouts gather weights from all processes; use 'full'")
        if not backend.reshard_after_forward:
            raise ValueError("backend.reshard_after_forward: PPO frees weights between its passes; remove it")
        if self.rollout.type not in ("auto", "generate"):
            raise ValueError(f"rollout.type: '{self.rollout.type}' cannot use weights split by FSDP2; use 'generate'")

    def _check_lora(self, peft: Lora) -> None:
        if self.memory == "separate":
            raise ValueError("memory: with LoRA the roles share their base; 'separate' goes with 'peft: full'")
        if peft.dropout:
            raise ValueError("peft.dropout: rollouts and updates must compute the same; PPO needs dropout 0")
        if peft.init != "default" or peft.modules_to_save or peft.loraplus_ratio != 1.0:
            raise ValueError("peft: PPO takes LoRA with 'init: default', no 'modules_to_save' and no 'loraplus_ratio'")
        if (limit := peft.limits().get(self.model.quantization.type)) is not None:
            raise ValueError(f"model.quantization: {limit}")
        if self.model.adapter is not None and "peft" in self.model_fields_set:
            raise ValueError("peft: the adapter under 'model.adapter' brings its own settings; remove 'peft'")

    @model_validator(mode="after")
    def _batches(self) -> Self:
        rollout = self.rollout
        if rollout.batch_size % rollout.completions_per_prompt:
            raise ValueError(
                f"rollout.batch_size {rollout.batch_size} is not a multiple of completions_per_prompt "
                f"{rollout.completions_per_prompt}"
            )
        if rollout.batch_size % self.ppo.minibatch_size:
            near = [size for size in range(1, rollout.batch_size + 1) if rollout.batch_size % size == 0]
            best = min(near, key=lambda size: abs(size - self.ppo.minibatch_size))
            raise ValueError(
                f"ppo.minibatch_size {self.ppo.minibatch_size} does not divide rollout.batch_size "
                f"{rollout.batch_size}; the nearest that does is {best}"
            )
        if "eval" in self.model_fields_set and self.data.validation is None:
            raise ValueError("eval: there are no held-out prompts; add 'data.validation: 16' or remove 'eval'")
        return self

    @model_validator(mode="after")
    def _trains_the_policy(self) -> Self:
        alone, all_of_them = self.value.warmup_iterations, self.schedule.iterations
        if alone >= all_of_them:
            raise ValueError(
                f"value.warmup_iterations: {alone} of {several(all_of_them, 'iteration')} would train the value alone, "
                "and none the policy; lower it, or raise schedule.iterations"
            )
        size, horizon = self.rollout.batch_size, self.kl.horizon
        if self.kl.controller == "adaptive" and size * LARGEST_CHANGE >= horizon:
            raise ValueError(
                f"kl.horizon: {horizon:g} completions let one iteration of {size} take the whole coefficient away; "
                f"give several times rollout.batch_size (the default is {Kl.model_fields['horizon'].default:g})"
            )
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """What the reward model's path alone can say."""
        if self.reward_model is not None:
            for place, message in RewardModel(path=self.reward_model).faults():
                yield (("reward_model", *place[1:]) if place[:1] == ("path",) else ("reward_model",)), message

    def execute(self, options: RunOptions) -> None:
        """Train, and leave the policy in the run folder.

        Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
        """
        from ftune.recipes.runs.ppo import run_ppo

        run_ppo(self, options)
