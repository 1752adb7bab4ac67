"""Classifiers of texts: cross-entropy on a head with an output a class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer

from ftune.core.several import several
from ftune.evals.classes import class_report
from ftune.trainers.judged import ClassCollator, ClassDataset
from ftune.trainers.scoring import logits_of, score_spread
from ftune.trainers.tally import TalliedTrainer, Tally


class ClassifierTrainer(Trainer):
    """transformers' Trainer with cross-entropy over classes."""

    loss_is_scaled_for_ga = True
    label_smoothing: float
    tally: Tally

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> float:
        """Rows of a whole step: its loss is their mean, however it is accumulated."""
        items: int = sum(batch["items"] for batch in batch_samples)
        return items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean over rows."""
        logits = logits_of(model, inputs)
        classes = inputs["classes"]
        self.tally.add(accuracy=logits.argmax(-1) == classes)
        loss = cross_entropy(logits, classes, label_smoothing=self.label_smoothing, reduction="sum")
        mean: torch.Tensor = loss / (num_items_in_batch or inputs["items"])
        return mean


class ReliableClassifierTrainer(TalliedTrainer, ClassifierTrainer):
    """A classifier's training with ftune's saves, checks and counts."""

    eval_dataset: ClassDataset
    data_collator: Any
    names: Sequence[str]
    positive: int
    logits: np.ndarray[Any, np.dtype[np.float64]]
    """What the last evaluation found, shape (rows, classes)."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> float:
        return self.share_of(int(super()._get_num_items_in_batch(batch_samples, device)))

    def step_facts(self, logs: dict[str, float], trained: int) -> dict[str, Any]:
        """How many rows were told right, and how many there were."""
        return {**self.tally.means(self.ranks.sum), "rows": trained}

    def held_out(self) -> dict[str, Any]:
        """The report on the held-out rows."""
        examples = [self.eval_dataset[number] for number in range(len(self.eval_dataset))]
        collator: ClassCollator = self.data_collator.collate
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        rows = [example["input_ids"] for example in examples]
        at_once = self.args.per_device_eval_batch_size
        logits = score_spread(self.model, rows, collator.laid, self.ranks, at_once=at_once, dtype=dtype)
        self.logits = logits.double().numpy()
        return class_report(self.logits, np.array([example["class"] for example in examples]), self.names)

    @property
    def scores(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The reward of every held-out row: the logit of the positive class."""
        return self.logits[:, self.positive]

    def held_out_words(self, facts: dict[str, Any]) -> str:
        """Loss, accuracy and F1."""
        return (
            f"validation loss {facts['loss']:.4f}, accuracy {facts['accuracy']:.1%}, F1 {facts['f1']:.3f} "
            f"({several(facts['rows'], 'row')})"
        )
