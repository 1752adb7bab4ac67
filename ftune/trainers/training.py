"""What every training run does around its trainer: arguments, signals, progress, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback as UpstreamProgress
from transformers.trainer_utils import SaveStrategy

from ftune.backends.ranks import Ranks
from ftune.core.errors import LaunchError, RecipeError, StorageError
from ftune.core.say import Say
from ftune.report.events import EventLog
from ftune.trainers.adamw_bf16 import AdamWBf16
from ftune.trainers.fsdp import leave_split
from ftune.trainers.method import Method
from ftune.trainers.progress import ProgressCallback, Utilisation
from ftune.trainers.reliable import ReliableTrainer
from ftune.trainers.signals import StopAtStepEnd
from ftune.trainers.space import need_of
from ftune.trainers.walks import walked_once

Arguments = TypeVar("Arguments", bound=TrainingArguments)


class AfterOptimizerStep(TrainerCallback):
    """Tells the trainer when the optimiser has stepped and the gradients are still there."""

    def __init__(self, trainer: ReliableTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Called between the optimiser's step and `zero_grad`."""
        self.trainer.after_optimizer_step()


LESS_MEMORY = (
    "halve batch.micro_batch_size (batch.global_batch_size keeps the result the same), lower data.max_length, "
    "set batch.activation_checkpointing: selective, then true, or model.quantization: nf4, in this order"
)
"""What to do where the memory is not enough and no plan knows better."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended."""

    step: int
    max_steps: int
    seconds: float
    stopped_by: str
    """Name of the signal that stopped it early; empty when it ran to its end."""
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Around:
    """What a run gives its trainer beside model and rows."""

    args: dict[str, Any]
    """Arguments of the trainer's configuration class."""
    events: EventLog
    facts: dict[str, object]
    """They go into each checkpoint's manifest, with the position of a stream."""
    say: Say
    method: Method
    """What the PEFT method wants."""
    moved: Callable[[], None] = lambda: None
    """Called at the end of each step: the run does not stand still."""
    when_out_of_memory: Callable[[str], str] = lambda otherwise: otherwise
    """What to change then; it is given what is said where nothing better is known."""
    mfu: Utilisation = lambda tokens, squares, trained, seconds: None
    """The share of the GPUs' peak that steps have reached."""
    checkpoint: Path | None = None
    """Where to go on from."""
    trains_bf16: bool = False
    """Whether what trains is bf16, with `AdamWBf16` instead of transformers' optimiser."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes."""


def arguments(kind: type[Arguments], args: dict[str, Any]) -> Arguments:
    """The trainer's configuration. Raises RecipeError for what transformers or TRL does not take."""
    if "deepspeed" in args:
        from ftune.trainers.zero.joining import zero_arguments

        args = zero_arguments(args)
    try:
        config: Any = kind(**args, disable_tqdm=True, logging_nan_inf_filter=False)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"trainer_args: {str(error).splitlines()[0]}") from error
    if config.n_gpu > 1:
        config._n_gpu = 1  # one process uses one GPU; transformers would spread the model over all it sees
    made: Arguments = config
    return made


def keep_fp32(model: PreTrainedModel) -> None:
    """An adapter in fp32: TRL casts those on quantised weights to bf16; a resume would bring fp32 back."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def train(trainer: ReliableTrainer, around: Around, origins: Any) -> Outcome:
    """Train the trainer's model in place, from the checkpoint on when there is one.

    `origins` names the `file:line` of each row index; None where the rows of a batch are named by it already. Raises
    DivergedError and StorageError; a stop by signal is no error here, the outcome says it.
    """
    say, method, checkpoint = around.say, around.method, around.checkpoint
    if method.adapter:
        keep_fp32(trainer.model)
    if around.trains_bf16:
        trainer.trains_bf16, trainer.optimizer_cls_and_kwargs = True, _adamw_bf16(trainer.args)
    steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
    facts = {**around.facts, "max_steps": steps}
    trainer.prepare_reliability(around.ranks, around.events, say, facts, origins, method)
    leave_split(trainer)
    _share_buckets(trainer)
    _check_space(trainer, around)
    if method.hook:
        method.hook.begin(steps)
    for upstream in (PrinterCallback, UpstreamProgress):
        trainer.remove_callback(upstream)
    trainer.add_callback(AfterOptimizerStep(trainer))
    progress, stop = (
        ProgressCallback(trainer, around.events, say, around.mfu),
        StopAtStepEnd(around.ranks, around.moved),
    )
    trainer.add_callback(stop)
    trainer.add_callback(progress)  # behind it: whether the run ends here is known by then
    on_gpu = trainer.args.device.type == "cuda"
    if checkpoint is not None and _step_of(checkpoint) >= steps:  # killed between the last step and the result
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state.global_step = steps
        return Outcome(steps, steps, 0.0, "", on_gpu)
    try:
        with stop.listening(), walked_once(trainer.model):
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        trainer.settle()  # the step before is told
        advice = around.when_out_of_memory(LESS_MEMORY)
        raise LaunchError(
            f"out of GPU memory at step {trainer.state.global_step + 1} ({str(error).partition('. ')[0]}); {advice}"
        ) from error
    finally:
        progress.close()
    reached = trainer.state.global_step
    stopped_by = stop.agreed.name if stop.agreed and reached < trainer.state.max_steps else ""
    return Outcome(reached, trainer.state.max_steps, result.metrics["train_runtime"], stopped_by, on_gpu)


def _adamw_bf16(args: TrainingArguments) -> tuple[type[AdamWBf16], dict[str, Any]]:
    """The optimiser and its arguments beside the parameters, as transformers takes them."""
    betas = args.adam_beta1, args.adam_beta2
    return AdamWBf16, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon, "seed": args.seed}


def _share_buckets(trainer: ReliableTrainer) -> None:
    """Let gradients lie in the buckets that DDP sends, instead of being copied into them."""
    if (handler := trainer.accelerator.ddp_handler) is not None:
        handler.gradient_as_bucket_view, handler.broadcast_buffers = True, False  # buffers are constants


def _check_space(trainer: ReliableTrainer, around: Around) -> None:
    """Raises StorageError where the run could not save what it makes."""
    args = trainer.args
    checkpoints = args.save_strategy != SaveStrategy.NO
    with around.ranks.together(StorageError):
        if around.ranks.first:
            optimizer = "adamw_bf16" if around.trains_bf16 else args.optim
            need = need_of(trainer.model, optimizer, checkpoints=checkpoints)
            need.check(Path(args.output_dir), args.save_total_limit or 1, around.say)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
