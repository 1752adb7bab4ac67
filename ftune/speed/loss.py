"""A model whose forward pass can end in the loss: only tokens whose next one is trained go through the output head."""

import functools
import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as plain_cross_entropy
from trl.trainer.utils import maybe_gather_lm_head_ctx

from ftune.models.output_head import OutputHead, inner_model, output_head_of
from ftune.rl.cross_entropy import Summed, cross_entropy
from ftune.speed.flat import IGNORED

Batch = dict[str, Any]

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.02}
"""How far, relative to it, the loss may be from that of the model's own logits, by the dtype of products."""


def add_places(batch: Batch) -> Batch:
    """The batch with what the loss wants of its labels (B, T): N places in B * T, and the token behind each.

    Made where the batch is, on the CPU: a GPU would have to be waited for to know N.
    """
    following = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED).flatten()
    places_N = (following != IGNORED).nonzero().flatten()
    return batch | {"loss_places": places_N, "loss_targets": following[places_N]}


def give_loss(model: Any, head: OutputHead) -> None:
    """Let `model(**batch)` be `Summed` over the batch's places, where it has places; otherwise all is as before."""
    whole = inner_model(model)
    plain = whole.forward

    @functools.wraps(type(whole).forward)
    def forward(self: Any, *args: Any, loss_places: Tensor | None = None, **inputs: Any) -> Any:
        if loss_places is None:
            return plain(*args, **inputs)
        targets_N = inputs.pop("loss_targets")
        inputs.pop("labels", None)
        hidden = self.base_model(*args, **inputs, use_cache=False).last_hidden_state
        linear = head.linear
        with maybe_gather_lm_head_ctx(linear.weight, linear.bias):
            return cross_entropy(
                hidden.flatten(0, 1).index_select(0, loss_places),
                linear.weight,
                targets_N,
                bias_V=linear.bias,
                softcap=head.softcap,
                scale=head.scale,
            )

    whole.forward = types.MethodType(forward, whole)


def lossy_head(model: Any) -> OutputHead | str:
    """The head that `give_loss` may take; in words, why the model keeps its own loss."""
    whole = inner_model(model)
    if whole.base_model is whole:
        return "the model has no part without its output layer"
    return output_head_of(model)


@torch.no_grad()
def loss_fault(model: Any, batch: Batch, dtype: torch.dtype) -> str:
    """How the loss of a row, shape (1, T), differs from that of the model's own logits; empty where it does not.

    `model` has been given its loss, and `batch` lies where the model does.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype != torch.float32):
            ours: Summed = model(**add_places(batch))
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            logits = model(**inputs, use_cache=False).logits
    finally:
        model.train(was_training)
    plain = float(plain_cross_entropy(logits[0, :-1].float(), batch["labels"][0, 1:], reduction="sum"))
    found = float(ours.loss)
    if abs(found - plain) <= LIMITS[dtype] * abs(plain):
        return ""
    return f"the model's logits are more than a linear layer (losses {found:.6g} and {plain:.6g})"
