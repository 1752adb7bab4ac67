"""How a trainer gets its batches, by where it runs and what its batches are, and what a run says of its speed."""

from typing import TYPE_CHECKING, Protocol

from transformers.training_args import OptimizerNames

from ftune.backends.engines.sharding import is_split
from ftune.trainers.fed import FedTrainer, Feeding
from ftune.trainers.reliable import ReliableTrainer
from ftune.trainers.speed import Speed

if TYPE_CHECKING:
    from ftune.trainers.training import Around


class Examples(Protocol):
    """What a trainer draws from."""

    @property
    def longest(self) -> int | None:
        """Tokens that an example can have; None where nothing limits them."""


class FastTrainer(FedTrainer, ReliableTrainer):
    """A trainer whose batches come from a feed, and whose steps are read late."""


def feed(trainer: FastTrainer, around: "Around", speed: Speed, feeding: Feeding | None) -> None:
    """Let the trainer have its batches so, and tell what is on."""
    trainer.feeding = feeding
    trainer.late = feeding is not None and feeding.late
    for words in (speed.words(), feeding.words() if feeding else ""):
        if words:
            around.say.line(f"speed: {words}")
    around.events.write(
        "speed",
        attention=speed.attention or None,
        fused_loss=speed.fused_loss,
        folded_lora=speed.folded_lora,
        compiled_layers=speed.compiled_layers,
        fp8=speed.fp8,
        micro_batch_tokens=feeding.capacity if feeding else None,
        off=speed.reasons,
    )


def feeding_of(trainer: FastTrainer, around: "Around", rows: "Examples | None") -> Feeding | None:
    """What keeps a GPU busy; None on a CPU, which is busy anyway.

    `rows` are those of flat batches whose loss is a sum; None for other batches, which are not cut anew. Neither are
    those of processes that have to take each pass together.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if args.device.type != "cuda":
        return None
    together = (
        is_split(trainer.model)
        or trainer.is_deepspeed_enabled
        or accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        or args.include_num_input_tokens_seen != "no"  # transformers adds these up over processes in each pass
    )
    longest = None if rows is None or together else rows.longest
    # Memory that the recipe says is there: so many rows of that length may come together.
    capacity = None if longest is None else args.per_device_train_batch_size * longest
    looks_itself = around.trains_bf16 or args.optim == OptimizerNames.ADAMW_TORCH_FUSED
    late = looks_itself and not (is_split(trainer.model) or trainer.is_deepspeed_enabled or args.fp16)
    return Feeding(capacity, ahead=args.dataloader_num_workers == 0, late=late and around.method.hook is None)
