"""Checkpoints of transformers' Trainer in ftune's own format, the same for all backends."""

import pickle
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, Trainer

from ftune.backends.engines.sharding import gathered
from ftune.core.errors import CheckpointError
from ftune.peft.adapters import saved_frozen
from ftune.trainers.checkpoint_state import Beside, load_state, save_state
from ftune.trainers.method import Method
from ftune.trainers.torch_state import TorchState
from ftune.trainers.trained_state import TrainedState


class ResumableTrainer(Trainer):
    """Saves and loads what trains, the optimiser, schedule and loss scale; transformers keeps counters and randomness.

    All ranks call each method.
    """

    method: Method
    trains_bf16 = False
    """Whether what trains is bf16, and not fp32."""

    def trained_state(self) -> TrainedState:
        """What trains, and its optimiser where that has been made."""
        if self.deepspeed is None:
            return TorchState(self.model, self.optimizer)
        from ftune.trainers.zero.state import ZeroState

        return ZeroState(self.deepspeed)

    def whole_weights(self, *, keep: bool) -> AbstractContextManager[None]:
        """What an adapter's files are made of stands whole in the model, for saving, where `keep`."""
        if self.deepspeed is None:
            return gathered(self.model, keep=keep, frozen=saved_frozen(self.model))
        from ftune.trainers.zero.whole import whole

        return whole(self.model, keep=keep, frozen=saved_frozen(self.model))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """With DeepSpeed, steps apart from passes; and ftune's checkpoint, where transformers expects DeepSpeed's."""
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        from ftune.trainers.zero.stepping import step_apart

        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        step_apart(self)
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def write_model(self, folder: str) -> None:
        """What lies in a checkpoint beside the state: tokenizer and adapter, or the configuration of a whole model.

        Without `training_args.bin`: a pickle, and it would hold the hub token in clear.
        """
        write = self.args.should_save
        if self.method.adapter:
            with self.whole_weights(keep=write):
                if write:
                    self._save(folder)
                    (Path(folder) / "training_args.bin").unlink(missing_ok=True)
        elif write:
            describe(self.model, Path(folder), "bfloat16" if self.trains_bf16 else "float32")
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def write_state(self, folder: str) -> None:
        """Write the part of the state that falls to this rank. Raises StorageError."""
        facts = {"schedule": self.lr_scheduler.state_dict()}
        if (scaler := self._loss_scaler()) is not None:
            facts["loss_scale"] = scaler.state_dict()
        save_state(
            self.trained_state(),
            Path(folder),
            rank=self.args.process_index,
            count=self.args.world_size,
            beside=Beside(facts, self.method.hook.state() if self.method.hook else {}),
            buffers=whole_model_buffers(self.model),
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights alone; transformers calls it before the optimiser is made."""
        beside = load_state(self.trained_state(), Path(resume_from_checkpoint), only_weights=True)
        if self.method.hook:
            self.method.hook.restore(dict(beside.tensors))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            facts = load_state(self.trained_state(), Path(checkpoint)).facts
            self.lr_scheduler.load_state_dict(facts["schedule"])
            if (scaler := self._loss_scaler()) is not None and "loss_scale" in facts:
                scaler.load_state_dict(facts["loss_scale"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Upstream's, which unpickles nothing but tensors and numbers. Raises CheckpointError where there is more."""
        try:
            super()._load_rng_state(checkpoint)
        except (pickle.UnpicklingError, KeyError, TypeError) as error:
            name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
            raise CheckpointError(
                f"{checkpoint}: {name} holds something else than random states, of which nothing was run; "
                f"trust this checkpoint no more: remove it, and --resume from the one before"
            ) from error

    def _load_scaler(self, checkpoint: str | None) -> None:
        """It stands in the state."""

    def _loss_scaler(self) -> Any:
        return getattr(self.accelerator, "scaler", None)


def describe(model: PreTrainedModel, folder: Path, dtype: str) -> None:
    """Write the configuration of a model, beside which its weights in `dtype` will stand, as `save_pretrained` does."""
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]  # torch renames what it splits
    model.config.dtype = dtype
    model.config.save_pretrained(str(folder))
    if model.can_generate():
        model.generation_config.save_pretrained(str(folder))


def whole_model_buffers(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """The buffers that belong to the file of a model, all of whose parameters train; None for other models."""
    if not all(value.requires_grad for value in model.parameters()):
        return None
    buffers = dict(model.named_buffers())
    return {name: value for name, value in model.state_dict().items() if name in buffers}
