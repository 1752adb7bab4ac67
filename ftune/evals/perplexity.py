"""How well a model predicts the counted tokens of rows: loss, perplexity and accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LabelledRow = tuple[Sequence[int], Sequence[int]]
"""Token ids and their labels, of one length; a label is the token's own id, or -100 where it is not counted."""

IGNORED = -100

POSITIONS = 1024
"""How many positions have logits at a time: 0.6 GiB of fp32 for a vocabulary of 152,000."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """What a model makes of rows."""

    loss: float
    """Mean negative log-likelihood of a counted token, in nats."""
    perplexity: float
    """exp(loss)."""
    tokens: int
    """Counted tokens."""
    accuracy: float
    """Share of them that the model holds for the likeliest."""


@dataclass(frozen=True, slots=True)
class RowLoss:
    """What a model makes of one row."""

    loss: float
    """Sum of the negative log-likelihoods of its counted tokens, in nats."""
    tokens: int
    """Counted tokens."""
    right: int
    """How many of them the model holds for the likeliest."""


def perplexity(
    model: "PreTrainedModel",
    rows: Sequence[LabelledRow],
    *,
    batch_size: int,
    told: Callable[[int], None] | None = None,
) -> Perplexity:
    """Loss over all counted tokens, the mean of -log p(token | tokens before it), and exp(loss) (Jelinek et al., 1977).

    The mean is over tokens, not over rows or batches, so it is the loss of training with the same mask. See
    `row_losses`. Raises DataError where no token is counted.
    """
    import torch

    found = row_losses(model, rows, batch_size=batch_size, told=told)
    counted = sum(row.tokens for row in found)
    if not counted:
        raise DataError("perplexity: no token of these rows is counted; give rows with answers")
    loss = sum(row.loss for row in found) / counted
    exponential = torch.tensor(loss, dtype=torch.float64).exp().item()  # inf where math.exp would raise
    return Perplexity(loss, exponential, counted, sum(row.right for row in found) / counted)


def row_losses(
    model: "PreTrainedModel",
    rows: Sequence[LabelledRow],
    *,
    batch_size: int,
    told: Callable[[int], None] | None = None,
) -> list[RowLoss]:
    """The loss of each row, in the order of the rows; one without a counted token has none.

    A row's first token, which nothing predicts, is never counted. Rows are batched by length and padded on the right,
    and only counted positions get logits, POSITIONS at a time. `model` may be a PeftModel too. `told` is called with
    the number of rows of each batch that is done.
    """
    import torch
    from torch.nn.functional import cross_entropy

    counts = [sum(label != IGNORED for label in labels[1:]) for _, labels in rows]
    order = sorted((index for index, count in enumerate(counts) if count), key=lambda index: -len(rows[index][0]))
    losses, rights = [0.0] * len(rows), [0] * len(rows)
    if not order:
        return [RowLoss(0.0, 0, 0) for _ in rows]
    model.eval()
    with torch.inference_mode():
        states_of, head = _parts(model, rows[order[0]][0])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask, labels = _padded([rows[index] for index in chosen], model.device)
            kept = labels[:, 1:] != IGNORED
            states, targets = states_of(ids, mask)[:, :-1][kept], labels[:, 1:][kept]
            of_row = kept.nonzero()[:, 0]
            sums = torch.zeros(2, len(chosen), dtype=torch.float64, device=model.device)
            pieces = (torch.split(each, POSITIONS) for each in (states, targets, of_row))
            for piece, target, place in zip(*pieces, strict=True):
                logits = head(piece).float()
                sums[0].index_add_(0, place, cross_entropy(logits, target, reduction="none").double())
                sums[1].index_add_(0, place, (logits.argmax(-1) == target).double())
            for index, loss, right in zip(chosen, *sums.tolist(), strict=True):
                losses[index], rights[index] = loss, int(right)
            if told:
                told(len(chosen))
    return [RowLoss(*each) for each in zip(losses, counts, rights, strict=True)]


def _padded(rows: Sequence[LabelledRow], device: Any) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Ids, attention mask and labels of a batch, each of shape (B, T)."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = [[*ids, *[0] * (width - len(ids))] for ids, _ in rows]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]
    labels = [[*labels, *[IGNORED] * (width - len(labels))] for _, labels in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device), torch.tensor(labels, device=device)


def _parts(
    model: "PreTrainedModel", row: Sequence[int]
) -> tuple[Callable[["Tensor", "Tensor"], "Tensor"], Callable[["Tensor"], "Tensor"]]:
    """The model in two functions: ids and mask to states (B, T, D), and states (N, D) to logits (N, V).

    Some models do more than the head's product (Gemma 2 caps logits, Cohere scales them, prompt tuning puts tokens in
    front). So the two parts are tried on the first tokens of a row, and where they do not give the model's own logits,
    bit for bit, these are the states, and the head changes nothing: right too, but a whole batch of logits is held.
    """
    import torch

    decoder, head = model.get_decoder(), model.get_output_embeddings()

    def states_of(ids: "Tensor", mask: "Tensor") -> "Tensor":
        states: Tensor = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def logits_of(ids: "Tensor", mask: "Tensor") -> "Tensor":
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, -ids.shape[1] :]

    ids = torch.tensor([list(row[:64])], device=model.device)
    mask = torch.ones_like(ids)
    if decoder is not model and head is not None and torch.equal(head(states_of(ids, mask)), logits_of(ids, mask)):
        return states_of, head
    return logits_of, lambda logits: logits
