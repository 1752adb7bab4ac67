"""`ftune sft`: supervised fine-tuning on instructions, chats, completions or plain text."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from ftune.backends.base import Backend
from ftune.backends.single import Single
from ftune.core.section import Location
from ftune.core.variants import union_of
from ftune.peft.base import Feature, PeftMethod
from ftune.peft.lora import Lora
from ftune.recipes.base import Recipe, RunOptions
from ftune.recipes.data_section import Data
from ftune.recipes.model_section import Model
from ftune.recipes.trainer_args import check_trainer_args
from ftune.recipes.training_sections import Batch, Checkpoint, Eval, Log, Optim, Schedule


class SftRecipe(Recipe):
    """A recipe of `ftune sft`."""

    type: Literal["sft"] = "sft"
    """The command."""

    output_dir: str = "runs/recipe"
    """Folder of the run; by default `runs/` and the recipe's file name."""

    model: Model
    """The model that is tuned."""

    data: Data
    """The rows."""

    peft: union_of(PeftMethod) = Lora()  # type: ignore[valid-type]
    """Which parameters train."""

    optim: Optim = Optim()
    """The optimiser."""

    schedule: Schedule = Schedule()
    """How long, and the learning rate over time."""

    batch: Batch = Batch()
    """How many rows a step sees."""

    checkpoint: Checkpoint = Checkpoint()
    """What is kept to resume from."""

    eval: Eval = Eval()
    """The loss on held-out rows while training."""

    log: Log = Log()
    """What is shown and sent."""

    backend: union_of(Backend) = Single()  # type: ignore[valid-type]
    """Where it computes."""

    trainer_args: dict[str, object] = Field(default_factory=dict)
    """Further arguments of transformers' TrainingArguments (TRL's SFTConfig) that no section owns."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        used: dict[Feature, tuple[str, bool]] = {
            "packing": ("data.packing", self.data.packing),
            "activation_checkpointing": ("batch.activation_checkpointing", self.batch.activation_checkpointing),
            "unquantized": ("model.quantization", self.model.quantization.type == "none"),
            "nf4": ("model.quantization", self.model.quantization.type == "nf4"),
            "int8": ("model.quantization", self.model.quantization.type == "int8"),
        }
        limits = self.peft.limits()
        for feature, (key, is_used) in used.items():
            if is_used and feature in limits:
                raise ValueError(f"{key}: {limits[feature]}")
        if self.data.streaming is not None and self.schedule.max_steps is None:
            raise ValueError("schedule.max_steps: a stream has no known end; say after how many steps to stop")
        if self.eval != Eval() and self.data.validation is None:
            raise ValueError("eval: there are no held-out rows; add 'data.validation: 0.05' or remove 'eval'")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Faults of `trainer_args`."""
        owned = {name: owner for owner, args in self._section_args().items() for name in args}
        for name, message in check_trainer_args(self.trainer_args, owned).items():
            yield ("trainer_args", name), message

    def training_args(self) -> dict[str, object]:
        """All arguments of SFTConfig that follow from the recipe alone."""
        args = {name: value for section in self._section_args().values() for name, value in section.items()}
        return {**args, "output_dir": self.output_dir, "seed": self.seed, "data_seed": self.seed, **self.trainer_args}

    def _section_args(self) -> dict[str, dict[str, object]]:
        return {
            "optim": self.optim.training_args(self.peft.default_learning_rate),
            "schedule": self.schedule.training_args(),
            "batch": self.batch.training_args(world_size=1),
            "checkpoint": self.checkpoint.training_args(),
            "eval": self.eval.training_args(self.batch.micro_batch_size, has_rows=self.data.validation is not None),
            "log": self.log.training_args(),
            "backend": self.backend.training_args(),
        }

    def execute(self, options: RunOptions) -> None:
        """Train, and leave the result in the run folder.

        Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
        """
        from ftune.recipes.runs.sft import run_sft

        run_sft(self, options)
