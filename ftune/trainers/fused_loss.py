"""TRL's SFTTrainer with the loss that the model gives by itself, without logits and without waiting for the GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from trl import SFTTrainer

from ftune.rl.cross_entropy import Summed
from ftune.speed.loss import add_places


@dataclass(frozen=True, slots=True)
class WithPlaces:
    """A collator whose batches also say which places the loss is of."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `examples`."""
        return add_places(self.collate(examples))


class FusedLossTrainer(SFTTrainer):
    """SFTTrainer that leaves the loss to the model where batches have places; otherwise it is TRL's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.correct: list[torch.Tensor] = []
        """How many tokens of each micro-batch were the most likely ones, where it was computed."""
        self.looked_at = 0
        """Of how many."""

    def summed(self, model: Any, inputs: dict[str, Any]) -> Summed:
        """Loss and correct tokens of a batch with places."""
        summed: Summed = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return summed

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the step's trained tokens, as TRL 1.16 has it."""
        if return_outputs or "loss_places" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        summed, count = self.summed(model, inputs), len(inputs["loss_places"])
        self.correct.append(summed.correct)
        self.looked_at += count
        loss = summed.loss / max(count if num_items_in_batch is None else num_items_in_batch, 1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss
