"""What a model computes of a flat batch, which is what has to stay as it was: one class a kind of model."""

import functools
import types
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.models.output_head import inner_model, is_virtual
from ftune.speed.loss import LIMITS, Batch, add_places, give_loss, loss_fault, lossy_head
from ftune.trainers.head import NAME, typical_score


class Task(Protocol):
    """T tokens of all rows of a flat batch."""

    part: str
    """What stays off where the model cannot compute it, by its name in `Wanted`."""
    limits: dict[torch.dtype, float]
    """How far, relative to it, `loss` may come out elsewhere, by the dtype of products: rounding makes less of it."""

    def give(self, model: PreTrainedModel, row: list[int], dtype: torch.dtype) -> str:
        """Let the model compute it from now on, tried on a row; why it cannot, in words, or nothing."""

    def outputs(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """What each token gives, by which rows are told apart; fp32, shape (T, width)."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """A number whose gradients reach all that trains."""


class NextTokens:
    """A language model, whose loss it makes itself of tokens that train."""

    part = "fused_loss"
    limits = LIMITS

    def give(self, model: PreTrainedModel, row: list[int], dtype: torch.dtype) -> str:
        """It does without logits of the whole batch."""
        head = lossy_head(model)
        if isinstance(head, str):
            return head
        give_loss(model, head)
        ids = torch.tensor([row], device=device_of(model))
        try:
            return loss_fault(model, {"input_ids": ids, "labels": ids}, dtype)
        except (AttributeError, TypeError) as error:  # a method that wants what the model gives beside its loss
            return f"the method wants more of the model than its loss ({first_line(error)})"

    def outputs(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Logits."""
        logits: Tensor = model(**_unlabelled(batch), use_cache=False).logits
        return logits[0].float()

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Summed over the batch's labels."""
        loss: Tensor = model(**_unlabelled(add_places(batch))).loss
        return loss


class Scores:
    """A model with a head, whose scores are read at the places that a batch names."""

    part = "packed_attention"
    limits = LIMITS | dict.fromkeys((torch.bfloat16, torch.float16), 0.1)
    """Rounding in 16 bit makes up to 0.05 with 32 layers and as many tokens: squares are twice as far off as scores."""

    def give(self, model: PreTrainedModel, row: list[int], dtype: torch.dtype) -> str:
        """Its forward pass takes `ends` from now on."""
        if is_virtual(model):
            return "the method puts virtual tokens before each row"
        give_scores(model)
        return _scores_fault(model, row, dtype)

    def outputs(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Scores at every token, not at the last ones alone."""
        ends = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        scores: Tensor = model(**_unlabelled(batch), ends=ends)
        return scores.float()

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """The sum of their squares: how far it is off, relative to it, does not depend on their size."""
        return self.outputs(model, batch).square().sum()


NEXT_TOKENS, SCORES = NextTokens(), Scores()


def give_scores(model: Any) -> None:
    """Let `model(**batch)` be the head's outputs (n, classes) at `ends` (n,), places in B * T, where a batch has them.

    Otherwise all is as before: transformers looks for each row's last token that is not padding.
    """
    whole = inner_model(model)
    plain = whole.forward

    @functools.wraps(type(whole).forward)
    def forward(self: Any, *args: Any, ends: Tensor | None = None, **inputs: Any) -> Any:
        if ends is None:
            return plain(*args, **inputs)
        inputs = {name: value for name, value in inputs.items() if name not in ("labels", "use_cache")}
        hidden = self.base_model(*args, **inputs, use_cache=False).last_hidden_state
        return getattr(self, NAME)(hidden.flatten(0, 1).index_select(0, ends))

    whole.forward = types.MethodType(forward, whole)


@torch.no_grad()
def _scores_fault(model: PreTrainedModel, row: list[int], dtype: torch.dtype) -> str:
    """How the score of a row differs from the model's own; empty where it does not."""
    device, was_training = device_of(model), model.training
    while len(row) > 1 and row[-1] == model.config.pad_token_id:  # a row that was cut there; the model would go back
        row = row[:-1]
    ids, ends = torch.tensor([row], device=device), torch.tensor([len(row) - 1], device=device)
    model.eval()
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            plain, found = model(input_ids=ids, use_cache=False).logits.float(), model(input_ids=ids, ends=ends).float()
    finally:
        model.train(was_training)
    if float((found - plain).abs().max()) <= LIMITS[dtype] * max(float(plain.abs().max()), typical_score(model)):
        return ""
    return "the model's score of a row is more than its head on the last token"


def first_line(error: Exception) -> str:
    """What an error of a library says first."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _unlabelled(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}
