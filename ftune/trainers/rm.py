"""Training of a reward model or a classifier: one trainer a head, and what their runs share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig

from ftune.core.errors import RecipeError
from ftune.evals.pairs import ScoredPairs
from ftune.trainers.classifier import ReliableClassifierTrainer
from ftune.trainers.feeding import feed, feeding_of
from ftune.trainers.judged import ClassCollator, ClassDataset, Laid, PairCollator, PairDataset
from ftune.trainers.pairwise import ReliablePairwiseTrainer
from ftune.trainers.speed import Speed
from ftune.trainers.tally import Tally
from ftune.trainers.training import Around, Outcome, arguments, train

GIVEN = {"disable_dropout": False, "max_length": None, "remove_unused_columns": False}
"""Arguments that are decided here: the model's own dropout is off already, rows are prepared."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The last look at the held-out rows."""

    facts: dict[str, Any]
    scores: np.ndarray[Any, np.dtype[np.float64]]
    """Rewards of all held-out texts."""
    pairs: ScoredPairs | None
    """The pairs, where it was trained on pairs."""


def train_on_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: PairDataset,
    validation: PairDataset | None,
    around: Around,
    *,
    laid: Laid,
    label_smoothing: float,
    center: float,
    margin: bool,
    speed: Speed,
) -> tuple[Outcome, Judged | None]:
    """Train `model` in place, then look at the held-out pairs. `around.args` are arguments of RewardConfig.

    `speed` is what the model has been given; rows lie as that wants them.
    """
    stand_in = Dataset.from_dict({"chosen_ids": [[0]], "rejected_ids": [[0]]})  # TRL 1.16 takes no other kind
    trainer = ReliablePairwiseTrainer(
        model=model,
        args=arguments(RewardConfig, around.args | GIVEN),
        data_collator=PairCollator(laid, margin),
        train_dataset=stand_in,
        eval_dataset=stand_in if validation is not None else None,
        processing_class=tokenizer,
    )
    trainer.train_dataset, trainer.eval_dataset = rows, validation
    trainer.label_smoothing, trainer.center, trainer.tally = label_smoothing, center, Tally()
    feed(trainer, around, speed, feeding_of(trainer, around, rows if speed.attention else None))
    outcome = train(trainer, around, rows.prepared.origins)
    if outcome.stopped_by or not _judge(trainer, outcome, validation):
        return outcome, None
    return outcome, Judged(trainer.evaluation, trainer.scores, trainer.pairs)


def train_on_classes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: ClassDataset,
    validation: ClassDataset | None,
    around: Around,
    *,
    laid: Laid,
    label_smoothing: float,
    names: Sequence[str],
    positive: int,
    speed: Speed,
) -> tuple[Outcome, Judged | None]:
    """Train `model` in place, then look at the held-out texts; otherwise as `train_on_pairs`."""
    config = arguments(RewardConfig, around.args | GIVEN)
    if config.activation_offloading:
        raise RecipeError("trainer_args.activation_offloading: TRL offers it for a scalar head alone; remove it")
    trainer = ReliableClassifierTrainer(
        model=model,
        args=config,
        data_collator=ClassCollator(laid),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
    )
    trainer.label_smoothing, trainer.names, trainer.positive = label_smoothing, names, positive
    trainer.tally = Tally()
    feed(trainer, around, speed, feeding_of(trainer, around, rows if speed.attention else None))
    outcome = train(trainer, around, rows.prepared.origins)
    if outcome.stopped_by or not _judge(trainer, outcome, validation):
        return outcome, None
    return outcome, Judged(trainer.evaluation, trainer.scores, None)


def _judge(
    trainer: ReliablePairwiseTrainer | ReliableClassifierTrainer, outcome: Outcome, validation: object | None
) -> bool:
    """Look at the held-out rows after the last step, unless that has just been done; False without such rows."""
    if validation is None:
        return False
    if trainer.evaluated_at != outcome.step:
        trainer.evaluate()
    return True
