"""Reward models from pairs: -log sigmoid(s_w - s_l), the mean over a prompt's pairs (arXiv:2203.02155, equation 1)."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from trl import RewardTrainer

from ftune.core.several import several
from ftune.evals.pairs import ScoredPairs, pair_report
from ftune.trainers.judged import PairCollator, PairDataset, scored_pairs
from ftune.trainers.scoring import logits_of, score_spread
from ftune.trainers.tally import TalliedTrainer, Tally


def pair_losses(
    better: torch.Tensor,
    worse: torch.Tensor,
    margins: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    center: float = 0.0,
) -> torch.Tensor:
    """The loss of each of P pairs of scores, shape (P,).

    With d = s_w - s_l - margin and smoothing e: -(1 - e) log sigmoid(d) - e log sigmoid(-d) + center (s_w + s_l)^2. The
    margin is Llama 2's (arXiv:2307.09288, equation 2), the centring term that of arXiv:2312.09244, equation 2.
    """
    lead = better - worse - margins
    loss = -(1 - label_smoothing) * logsigmoid(lead)
    if label_smoothing:
        loss = loss - label_smoothing * logsigmoid(-lead)
    return loss + center * (better + worse).square() if center else loss


class PairwiseTrainer(RewardTrainer):
    """TRL's RewardTrainer with every pair of a prompt in one batch, each of its answers computed once."""

    loss_is_scaled_for_ga = True
    label_smoothing: float
    center: float
    tally: Tally

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> float:
        """Prompts of a whole step: its loss is their mean, however it is accumulated."""
        items: int = sum(batch["items"] for batch in batch_samples)
        return items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean over prompts of the mean over their pairs."""
        scores = logits_of(model, inputs).squeeze(-1)
        better, worse = scores[inputs["better"]], scores[inputs["worse"]]
        losses = pair_losses(better, worse, inputs["margins"], label_smoothing=self.label_smoothing, center=self.center)
        leads = (better - worse).detach()
        self.tally.add(accuracy=(leads.sign() + 1) / 2, margin=leads)
        mean: torch.Tensor = (losses * inputs["weights"]).sum() / (num_items_in_batch or inputs["items"])
        return mean


class ReliablePairwiseTrainer(TalliedTrainer, PairwiseTrainer):
    """Pairwise training with ftune's saves, checks and counts."""

    eval_dataset: PairDataset | None
    data_collator: Any
    pairs: ScoredPairs
    """What the last evaluation scored."""
    scores: np.ndarray[Any, np.dtype[np.float64]]
    """Of every held-out answer."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> float:
        return self.share_of(int(super()._get_num_items_in_batch(batch_samples, device)))

    def step_facts(self, logs: dict[str, float], trained: int) -> dict[str, Any]:
        """How many pairs were told right, by how much, and how many answers were scored."""
        return {**self.tally.means(self.ranks.sum), "answers": trained}

    def held_out(self) -> dict[str, Any]:
        """Loss as in training (without smoothing, margins and centring), and the report on the pairs."""
        data = self.eval_dataset
        if data is None:
            raise ValueError("there are no held-out pairs")
        self.scores, self.pairs = scored_pairs(data, lambda rows: self.score(rows)[:, 0])
        better, worse = (torch.from_numpy(side).float() for side in (self.pairs.better, self.pairs.worse))
        losses = pair_losses(better, worse, torch.zeros(len(better))).numpy()
        prompts = self.pairs.prompts
        weights = 1 / np.bincount(prompts)[prompts]
        return {"loss": float((losses * weights).sum() / len(data)), **pair_report(self.pairs)}

    def score(self, rows: list[list[int]]) -> torch.Tensor:
        """Logits of rows, shape (rows, 1)."""
        collator: PairCollator = self.data_collator.collate
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        at_once = 2 * self.args.per_device_eval_batch_size
        return score_spread(self.model, rows, collator.laid, self.ranks, at_once=at_once, dtype=dtype)

    def held_out_words(self, facts: dict[str, Any]) -> str:
        """Loss, accuracy and margin."""
        return (
            f"validation loss {facts['loss']:.4f}, accuracy {facts['accuracy']:.1%}, margin {facts['margin']:.3f} "
            f"({several(facts['pairs'], 'pair')})"
        )
