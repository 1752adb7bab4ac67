"""Supervised fine-tuning: TRL's SFTTrainer on rows that are already masked tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback as UpstreamProgress
from trl import SFTConfig, SFTTrainer

from ftune.core.errors import LaunchError, RecipeError
from ftune.core.say import Say
from ftune.report.events import EventLog
from ftune.trainers.feed import PreparedDataset, StreamDataset
from ftune.trainers.progress import ProgressCallback
from ftune.trainers.reliable import Method, ReliableTrainer
from ftune.trainers.signals import StopAtStepEnd


class ReliableSFTTrainer(ReliableTrainer, SFTTrainer):
    """SFTTrainer with ftune's saves, checks and counts."""

    def evaluation_sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Summed negative log-likelihood, correct next tokens and predicted tokens."""
        with self.compute_loss_context_manager():
            out = self.model(**inputs, use_cache=False, fused_lm_head=True)
        return torch.stack([-out.log_probs.float().sum(), out.is_top1.sum(), out.label_mask.sum()]).float()


class AfterOptimizerStep(TrainerCallback):
    """Tells the trainer when the optimiser has stepped and the gradients are still there."""

    def __init__(self, trainer: ReliableTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Called between the optimiser's step and `zero_grad`."""
        self.trainer.after_optimizer_step()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended."""

    step: int
    max_steps: int
    seconds: float
    stopped_by: str
    """Name of the signal that stopped it early; empty when it ran to its end."""
    on_gpu: bool


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: PreparedDataset | StreamDataset,
    validation: PreparedDataset | None,
    *,
    args: dict[str, Any],
    packed: bool,
    events: EventLog,
    facts: dict[str, object],
    say: Say,
    method: Method,
    checkpoint: Path | None = None,
) -> Outcome:
    """Train `model` in place, from `checkpoint` on when one is given.

    `args` are arguments of SFTConfig; `method` is what the PEFT method wants; `facts` go into each checkpoint's
    manifest, with the position of a stream. Raises DivergedError and StorageError; a stop by signal is no error here,
    the outcome says it.
    """
    trainer = _build(model, tokenizer, train, validation, args, packed=packed)
    steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
    origins = train.prepared.origins if isinstance(train, PreparedDataset) else None
    trainer.prepare_reliability(events, say, {**facts, "max_steps": steps}, origins, method)
    if method.hook:
        method.hook.begin(steps)
    for upstream in (PrinterCallback, UpstreamProgress):
        trainer.remove_callback(upstream)
    trainer.add_callback(AfterOptimizerStep(trainer))
    progress, stop = ProgressCallback(trainer, events, say.console), StopAtStepEnd()
    trainer.add_callback(progress)
    trainer.add_callback(stop)
    on_gpu = trainer.args.device.type == "cuda"
    if checkpoint is not None and _step_of(checkpoint) >= steps:  # killed between the last step and the result
        trainer._load_from_checkpoint(str(checkpoint))
        return Outcome(steps, steps, 0.0, "", on_gpu)
    try:
        with stop.listening():
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise LaunchError(
            f"out of GPU memory at step {trainer.state.global_step + 1} ({str(error).partition('. ')[0]}); "
            f"halve batch.micro_batch_size (batch.global_batch_size keeps the result the same), lower data.max_length, "
            f"set batch.activation_checkpointing: true or model.quantization: nf4, in this order"
        ) from error
    finally:
        progress.close()
    reached = trainer.state.global_step
    stopped_by = stop.received.name if stop.received and reached < trainer.state.max_steps else ""
    return Outcome(reached, trainer.state.max_steps, result.metrics["train_runtime"], stopped_by, on_gpu)


def _build(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: PreparedDataset | StreamDataset,
    validation: PreparedDataset | None,
    args: dict[str, Any],
    *,
    packed: bool,
) -> ReliableSFTTrainer:
    if isinstance(train, StreamDataset):  # it goes on by itself where it stood, and every process reads its own share
        args = {"accelerator_config": {"dispatch_batches": False}, **args, "ignore_data_skip": True}
    try:
        config = SFTConfig(
            **args,
            packing=packed,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
            logging_nan_inf_filter=False,
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"trainer_args: {str(error).splitlines()[0]}") from error
    if isinstance(train, StreamDataset) and config.dataloader_num_workers:
        raise RecipeError(
            "trainer_args.dataloader_num_workers: a stream is read by the training process, and each worker would "
            "read all of it again; remove it, or switch 'data.streaming' off"
        )
    if config.n_gpu > 1:
        config._n_gpu = 1  # one process uses one GPU; transformers would spread the model over all it sees
    stand_in = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})  # TRL 1.16 takes no other kind of data set
    trainer = ReliableSFTTrainer(
        model=model,
        args=config,
        train_dataset=stand_in,
        eval_dataset=stand_in if validation is not None else None,
        processing_class=tokenizer,
    )
    trainer.train_dataset, trainer.eval_dataset = train, validation
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL casts adapters on quantised weights to bf16; a resume would bring fp32 back
            parameter.data = parameter.data.float()
    return trainer


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
