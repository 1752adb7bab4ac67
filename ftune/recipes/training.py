"""What the recipes have in common that train a model on rows with transformers' Trainer: `sft` and `rm`."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from ftune.backends.auto import Auto
from ftune.backends.base import Backend
from ftune.backends.choice import AnyBackend
from ftune.core.errors import RecipeError
from ftune.core.section import Location
from ftune.core.variants import union_of
from ftune.peft.base import Feature, PeftMethod
from ftune.peft.lora import Lora
from ftune.recipes.backend_checks import check_together
from ftune.recipes.base import Recipe
from ftune.recipes.data_section import RowsSection
from ftune.recipes.model_section import Model
from ftune.recipes.speed_section import Speed
from ftune.recipes.trainer_args import check_trainer_args
from ftune.recipes.training_sections import Batch, Checkpoint, Eval, Log, Optim, Schedule

if TYPE_CHECKING:
    from ftune.data.intake import Rules


class TrainingRecipe(Recipe):
    """A recipe whose command trains a model on rows."""

    arguments_class: ClassVar[str] = "SFTConfig"
    """The class of TRL whose arguments `trainer_args` takes."""

    managed_args: ClassVar[Mapping[str, str]] = {}
    """Arguments of that class that keys of this recipe set: the argument and the key."""

    output_dir: str = "runs/recipe"
    """Folder of the run; by default `runs/` and the recipe's file name."""

    model: Model
    """The model that is tuned."""

    data: RowsSection
    """The rows."""

    peft: union_of(PeftMethod, default="lora") = Lora()  # type: ignore[valid-type]
    """Which parameters train."""

    optim: Optim = Optim()
    """The optimiser."""

    schedule: Schedule = Schedule()
    """How long, and the learning rate over time."""

    batch: Batch = Batch()
    """How many rows a step sees."""

    speed: Speed = Speed()
    """What makes training fast."""

    checkpoint: Checkpoint = Checkpoint()
    """What is kept to resume from."""

    eval: Eval = Eval()
    """How often held-out rows are looked at while training."""

    log: Log = Log()
    """What is shown and sent."""

    backend: AnyBackend = Auto()
    """Where it computes."""

    trainer_args: dict[str, object] = Field(default_factory=dict)
    """Further arguments of transformers' TrainingArguments (TRL's SFTConfig or RewardConfig) that no section owns."""

    def features(self) -> dict[Feature, tuple[str, bool]]:
        """What a method may not go together with: the key that asks for it, and whether it is asked for."""
        quantization = self.model.quantization.type
        return {
            "activation_checkpointing": ("batch.activation_checkpointing", bool(self.batch.checkpointing)),
            "selective_checkpointing": ("batch.activation_checkpointing", self.batch.selects),
            "unquantized": ("model.quantization", quantization == "none"),
            "nf4": ("model.quantization", quantization == "nf4"),
            "int8": ("model.quantization", quantization == "int8"),
        }

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        limits = self.peft.limits()
        for feature, (key, is_used) in self.features().items():
            if is_used and feature in limits:
                raise ValueError(f"{key}: {limits[feature]}")
        self._check_bf16()
        if self.batch.selects and (why := self.selective_fault()):
            raise ValueError(f"batch.activation_checkpointing: 'selective' {why}; set it to true")
        self.check_backend(self.backend)
        if self.eval != Eval() and self.data.validation is None:
            raise ValueError("eval: there are no held-out rows; add 'data.validation: 0.05' or remove 'eval'")
        return self

    def selective_fault(self) -> str:
        """Why a part of a layer's activations cannot be kept; empty where it can, as far as a recipe tells."""
        if self.model.attention == "eager":
            return "keeps what one operation gives, and 'model.attention: eager' is several"
        if self.model.quantization.type == "int8":
            return "knows products of numbers in 16 and 32 bit, and those of 'int8' are others"
        return ""

    def _check_bf16(self) -> None:
        """Raises ValueError for a method or products that an optimiser of bf16 weights is not for."""
        if not self.trains_bf16:
            return
        asked = f"optim.optimizer: '{self.optim.optimizer}'"
        if not self.peft.trains_base:
            raise ValueError(
                f"{asked} steps on bf16 weights, and what '{self.peft.type}' trains is in fp32; use 'adamw', or "
                "'peft: full'"
            )
        if self.model.dtype not in ("auto", "bf16"):
            raise ValueError(f"{asked} needs products in bf16; set 'model.dtype: bf16', or use 'adamw'")

    @property
    def trains_bf16(self) -> bool:
        """Whether what trains is bf16, and not fp32."""
        return self.optim.optimizer == "adamw_bf16"

    def weights(self, products: str) -> str:
        """The dtype in which the model is loaded where its products are in `products`."""
        return "fp32" if self.peft.trains_base and not self.trains_bf16 else products

    def check_products(self, products: str) -> None:
        """Raises RecipeError for bf16 weights on a device where `model.dtype: auto` is something else."""
        if self.trains_bf16 and products != "bf16":
            raise RecipeError(
                f"optim.optimizer: 'adamw_bf16' needs products in bf16, and 'model.dtype: auto' is {products} here; "
                "set 'model.dtype: bf16', which this device does slowly, or use 'adamw'"
            )

    def check_backend(self, backend: Backend) -> None:
        """Raises ValueError for what the recipe cannot do on a backend: its own, or what `auto` became."""
        check_together(backend, self.peft.limits(), self.optim.optimizer, self.model.quantization.type)
        if self.batch.selects and backend.shards():
            raise ValueError(
                "batch.activation_checkpointing: 'selective' is for weights that are whole on each device, and "
                f"'backend: {backend.name}' has them in parts; set it to true"
            )
        if self.batch.activation_offload and backend.shards():
            raise ValueError(
                "batch.activation_offload: it is for weights that are whole on each device, and "
                f"'backend: {backend.name}' has them in parts; set it to false"
            )
        if (count := backend.known_processes) is not None:
            self.batch.accumulation(count)

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Faults of `trainer_args`."""
        owned = {name: owner for owner, args in self._section_args().items() for name in args} | dict(self.managed_args)
        for name, message in check_trainer_args(self.trainer_args, owned, self.arguments_class).items():
            yield ("trainer_args", name), message

    @abstractmethod
    def rules(self, positions: int | None) -> "Rules":
        """How rows become sequences for a model that can read `positions` tokens."""

    def training_args(self, processes: int = 1) -> dict[str, object]:
        """All arguments of the trainer that follow from the recipe and the number of processes alone.

        Raises ValueError when the global batch cannot be divided among them.
        """
        args = {name: value for section in self._section_args(processes).values() for name, value in section.items()}
        return {**args, "output_dir": self.output_dir, "seed": self.seed, "data_seed": self.seed, **self.trainer_args}

    def _section_args(self, processes: int = 1) -> dict[str, dict[str, object]]:
        return {
            "optim": self.optim.training_args(self.peft.default_learning_rate),
            "schedule": self.schedule.training_args(),
            "batch": self.batch.training_args(processes),
            "checkpoint": self.checkpoint.training_args(),
            "eval": self.eval.training_args(self.batch.rows_at_once, has_rows=self.data.validation is not None),
            "log": self.log.training_args(),
            "backend": self.backend.training_args(),
        }
