"""The sections about training: optimiser, schedule, batches, checkpoints, evaluation, logging.

Each hands out the arguments of transformers' TrainingArguments that it owns, by `training_args`.
"""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.core.section import Location, Section
from ftune.core.several import several
from ftune.report.recipe_changes import UNLESS_GIVEN_EPOCHS

Count = Annotated[int, Field(ge=1)]


class Optim(Section):
    """The optimiser."""

    optimizer: Literal["adamw", "adamw_bf16", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "sgd"] = (
        "adamw"
    )
    """`adamw` is PyTorch's (fused where it can be). `adamw_bf16` is AdamW on bf16 weights and moments, updates in fp32
    rounded stochastically (arXiv:2010.06192): 8 bytes a trained parameter instead of 16; full fine-tuning only. The
    8-bit and paged ones need bitsandbytes and a GPU."""

    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Peak learning rate; `auto` takes the PEFT method's usual one (LoRA 2e-4, full 2e-5)."""

    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )
    """Decay of AdamW's two moments."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; biases and norms are left out."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""

    def training_args(self, default_learning_rate: float) -> dict[str, object]:
        """Names as transformers has them; `default_learning_rate` is what `auto` means."""
        # that on bf16 is not among transformers' optimisers: the trainer is given it in place of the one named here
        names = {"adamw": "adamw_torch_fused", "adamw_bf16": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}
        automatic = self.learning_rate == "auto"
        return {
            "optim": names.get(self.optimizer, self.optimizer),
            "learning_rate": default_learning_rate if automatic else self.learning_rate,
            "adam_beta1": self.betas[0],
            "adam_beta2": self.betas[1],
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
        }

    @model_validator(mode="after")
    def _betas_of_adamw(self) -> Self:
        if self.betas != type(self).model_fields["betas"].get_default(call_default_factory=True) and (
            "adamw" not in self.optimizer
        ):
            raise ValueError(f"betas belong to AdamW; '{self.optimizer}' has none, remove them")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A missing bitsandbytes."""
        if ("8bit" in self.optimizer or "paged" in self.optimizer) and find_spec("bitsandbytes") is None:
            yield (
                ("optimizer",),
                f"'{self.optimizer}' needs bitsandbytes; pip install 'ftune[quantization]' or use 'adamw'",
            )


class Schedule(Section):
    """How long to train, and the learning rate over time."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training rows; 3 unless `max_steps` is given."""

    max_steps: Count | None = None
    """Optimiser steps, instead of `epochs`."""

    warmup: Annotated[float, Field(ge=0)] = 0.03
    """Linear warm-up: a share of all steps below 1, a number of steps from 1 on."""

    type: Literal["cosine", "linear", "constant", "inverse_sqrt", "cosine_with_min_lr"] = "cosine"
    """Shape after the warm-up; `cosine_with_min_lr` ends at a tenth of the peak."""

    def training_args(self) -> dict[str, object]:
        """Length, warm-up and shape."""
        return {
            "num_train_epochs": self.epochs or UNLESS_GIVEN_EPOCHS,
            "max_steps": self.max_steps or -1,
            "warmup_steps": self.warmup,
            "lr_scheduler_type": self.type,
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if self.type == "cosine_with_min_lr" else {},
        }

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give 'epochs' or 'max_steps', not both; schedule.epochs=null takes one out")
        if self.warmup >= 1 and not self.warmup.is_integer():
            raise ValueError(f"warmup {self.warmup} is neither a share below 1 nor a whole number of steps")
        return self


class Batch(Section):
    """How many rows a step sees."""

    micro_batch_size: Literal["auto"] | Count = 8
    """Rows (packed sequences when packing) a device computes at once. `auto` takes the largest power of two that fits
    into the device's memory by the arithmetic of `ftune plan`, on a CPU as many as have 8,192 tokens together; it needs
    a `global_batch_size`, so that a step is the same on every device."""

    global_batch_size: Count | None = None
    """Rows of one optimiser step over all devices; accumulation follows from it."""

    gradient_accumulation_steps: Count | None = None
    """Micro-batches of one optimiser step, instead of `global_batch_size`; 1 when neither is given."""

    activation_checkpointing: Literal["auto", "selective"] | bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, slower. `selective` keeps
    queries, keys, values and attention's result of each layer, and computes the rest again. `auto` takes the first of
    `false`, `selective` and `true` with which the run fits on its GPU by the arithmetic of `ftune plan`, and `false` on
    a CPU."""

    activation_offload: bool = False
    """Keep what `activation_checkpointing: true` keeps, each layer's input, in the CPU's memory between the passes; for
    GPUs that hold the whole model."""

    def training_args(self, world_size: int) -> dict[str, object]:
        """Batch sizes for this many processes, and activation checkpointing."""
        return {
            "per_device_train_batch_size": self.rows_at_once,
            "gradient_accumulation_steps": self.accumulation(world_size),
            "gradient_checkpointing": self.recomputes,
            "gradient_checkpointing_kwargs": {"use_reentrant": False} if self.recomputes else None,
        }

    @property
    def rows_at_once(self) -> int:
        """`micro_batch_size` as a number; 1 while it is still to be chosen."""
        return 1 if self.micro_batch_size == "auto" else self.micro_batch_size

    @property
    def recomputes(self) -> bool:
        """Whether all of a layer is computed again; false while it is still to be chosen."""
        return self.activation_checkpointing is True

    @property
    def selects(self) -> bool:
        """Whether a part of a layer is computed again."""
        return self.activation_checkpointing == "selective"

    @property
    def checkpointing(self) -> Literal["selective"] | bool:
        """`activation_checkpointing`; false while it is still to be chosen."""
        return "selective" if self.selects else self.recomputes

    @model_validator(mode="after")
    def _one_truth(self) -> Self:
        if self.global_batch_size and self.gradient_accumulation_steps:
            raise ValueError(
                "give 'global_batch_size' or 'gradient_accumulation_steps', not both; batch.global_batch_size=null "
                "takes one out"
            )
        if self.micro_batch_size == "auto" and self.global_batch_size is None:
            raise ValueError(
                "micro_batch_size: 'auto' follows the device's memory, and a step must not; say how many rows a step "
                "has with 'global_batch_size'"
            )
        if self.activation_offload and not self.recomputes:
            raise ValueError(
                "activation_offload: it is for what 'activation_checkpointing: true' keeps; set that, or this to false"
            )
        if self.global_batch_size and self.global_batch_size % self.rows_at_once:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        return self

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of one step for this many processes.

        Raises ValueError, with the keys and the way out, when the global batch cannot be divided among them.
        """
        if self.global_batch_size is None:
            return self.gradient_accumulation_steps or 1
        share = self.rows_at_once * world_size
        if self.global_batch_size % share:
            larger = f"batch.global_batch_size={-(-self.global_batch_size // share) * share}"
            each = math.gcd(self.rows_at_once, self.global_batch_size // world_size)
            divides = self.global_batch_size % world_size == 0 and self.micro_batch_size != "auto"
            raise ValueError(
                f"batch.global_batch_size: {self.global_batch_size} rows a step do not go round {world_size} processes "
                f"of {several(self.rows_at_once, 'row')} (batch.micro_batch_size); set "
                + (f"batch.micro_batch_size={each}, or {larger}" if divides else larger)
            )
        return self.global_batch_size // share


Interval = Count | Literal["epoch", "never"]


def _strategy(every: int | str) -> tuple[str, int]:
    """Strategy name of transformers and step count of an interval."""
    if isinstance(every, int):
        return "steps", every
    return ("no" if every == "never" else every), 1


class Checkpoint(Section):
    """What is kept while training, to resume from."""

    every: Interval = "epoch"
    """Steps between checkpoints, `epoch`, or `never`."""

    keep: Count = 2
    """Checkpoints kept; older ones are removed."""

    def training_args(self) -> dict[str, object]:
        """When to save, and how many to keep."""
        strategy, steps = _strategy(self.every)
        return {"save_strategy": strategy, "save_steps": steps, "save_total_limit": self.keep}


class Eval(Section):
    """The loss on held-out rows while training."""

    every: Interval = "epoch"
    """Steps between evaluations, `epoch`, or `never`."""

    micro_batch_size: Count | None = None
    """Rows a device evaluates at once; as in training by default."""

    def training_args(self, micro_batch_size: int, *, has_rows: bool) -> dict[str, object]:
        """When to evaluate; never when there are no held-out rows."""
        strategy, steps = _strategy(self.every if has_rows else "never")
        size = self.micro_batch_size or micro_batch_size
        return {"eval_strategy": strategy, "eval_steps": steps, "per_device_eval_batch_size": size}


class Tracked(Section):
    """What is sent while training."""

    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default_factory=list)
    """Services that get the curves too; none by default. The run is called as its folder is, in a project `ftune`
    unless WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME or TRACKIO_PROJECT names another. A service that fails is named, and
    the run goes on without it."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Trackers whose package is missing."""
        for index, tracker in enumerate(self.trackers):
            if find_spec(tracker) is None:
                yield ("trackers", index), f"the {tracker} package is not installed; pip install 'ftune[{tracker}]'"


class Log(Tracked):
    """What is shown and sent while training."""

    every: Count = 1
    """Steps between log lines and points of the curves; the last step has one too."""

    def training_args(self) -> dict[str, object]:
        """How often to log; curves are sent on from the run's events, and not by the trainer."""
        return {"logging_strategy": "steps", "logging_steps": self.every, "report_to": "none"}
