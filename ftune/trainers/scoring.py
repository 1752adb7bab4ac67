"""Scores of rows by a model with a head, each at its own last token."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.backends.ranks import Ranks
from ftune.core.errors import ModelError
from ftune.speed.flat import FLAT
from ftune.trainers.head import typical_score
from ftune.trainers.judged import Laid, Padding

PROBED = 4


def logits_of(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """The head's outputs at the last token of each row, fp32, shape (rows, classes).

    Where rows are padded, transformers takes the last token that is not the padding token, which no row ends with; for
    rows end to end the model has been told how (`ftune.trainers.speed_tasks.give_scores`).
    """
    if "ends" in inputs:
        scores: torch.Tensor = model(**{name: inputs[name] for name in (*FLAT, "ends")})
        return scores.float()
    given = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    logits: torch.Tensor = model(**given, use_cache=False).logits
    return logits.float()


def score_spread(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    laid: Laid,
    ranks: Ranks,
    *,
    at_once: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """What `score_rows` gives, of which each process computes a share.

    All compute as many batches, since those that share a split model compute together.
    """
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    shares = [order[rank :: ranks.count] for rank in range(ranks.count)]
    mine = shares[ranks.rank] + order[:1] * (len(shares[0]) - len(shares[ranks.rank]))
    parts = ranks.gather(score_rows(model, [rows[row] for row in mine], laid, at_once=at_once, dtype=dtype))
    scores = parts[0].new_empty(len(rows), parts[0].shape[1])
    for share, part in zip(shares, parts, strict=True):
        scores[share] = part[: len(share)]
    return scores


@torch.no_grad()
def score_rows(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], laid: Laid, *, at_once: int, dtype: torch.dtype
) -> torch.Tensor:
    """Logits of all rows in their order, fp32 on the CPU, shape (rows, classes).

    Rows of like length are computed together, `at_once` of them, which changes no score.
    """
    device = device_of(model)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    parts = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for start in range(0, len(order), at_once):
            batch: dict[str, Any] = laid.batch([rows[row] for row in order[start : start + at_once]])
            batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
            parts.append(logits_of(model, batch).cpu())
    in_order = torch.cat(parts)
    return torch.empty_like(in_order).index_copy_(0, torch.tensor(order), in_order)


def probe_scores(model: PreTrainedModel, rows: Sequence[Sequence[int]], padding: Padding, dtype: torch.dtype) -> float:
    """Largest difference between the scores of a few rows in one padded batch and those of the same rows alone.

    The shortest and the longest of `rows` are among them. Raises ModelError where padding changes a score: the model
    looks ahead, or it does not read the score at the last token.
    """
    by_length = sorted(rows, key=len)
    probed = [by_length[place * (len(by_length) - 1) // (PROBED - 1)] for place in range(PROBED)]
    was_training = model.training
    model.eval()
    together = score_rows(model, probed, padding, at_once=PROBED, dtype=dtype)
    alone = score_rows(model, probed, padding, at_once=1, dtype=dtype)
    model.train(was_training)
    difference = float((together - alone).abs().max())
    largest = max(float(alone.abs().max()), typical_score(model))
    if not difference <= (1e-3 if dtype == torch.float32 else 0.2) * largest:
        raise ModelError(
            f"model.path: padding changes the scores of this model by {difference:.3g} of {largest:.3g}; a reward "
            "model is made from a causal language model"
        )
    return difference
