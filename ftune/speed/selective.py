"""Selective activation checkpointing: a layer keeps what its attention reads and gives, and computes the rest again.

Kept are the results of matrix products ahead of attention (queries, keys and values, and what adapters add to them) and
those of attention itself; `ftune.plan.selected` counts them. Norms, the product behind attention and the feed-forward
block, whose vectors are the widest, are computed again (arXiv:2205.05198, section 5, keeps all but attention, which was
the dear part before it was one kernel). A plain layer and a compiled one keep the same: the checkpoint lies within what
is compiled.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ftune.core.errors import ModelError
from ftune.speed.compiled import decoder_layers, of_class
from ftune.speed.operations import is_attention, is_product, looked_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHERE, OTHERWISE = "batch.activation_checkpointing: 'selective':", "set it to true"

CACHES = ("past_key_values", "layer_past")
"""What a layer is given to remember keys and values in; computed again, it would remember them twice."""


class UpToAttention:
    """The policy of one pass through a layer: it is asked about each operation, in order."""

    def __init__(self) -> None:
        self._passed = {False: False, True: False}

    def __call__(self, context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Whether its result is kept; PyTorch 2.11 asks once more when it computes again, 2.13 does not."""
        if is_attention(operation):
            self._passed[context.is_recompute] = True
            return CheckpointPolicy.MUST_SAVE
        ahead = not self._passed[context.is_recompute]
        return CheckpointPolicy.MUST_SAVE if ahead and is_product(operation) else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def selective_layers(model: "PreTrainedModel", batch: dict[str, Any]) -> Iterator[None]:
    """The model with decoder layers that checkpoint themselves in training; behind, they are as they were.

    `batch` is any that the model reads, by which its attention is looked at. Raises ModelError where layers cannot do
    it. What is compiled is entered within.
    """
    layers = decoder_layers(model)
    if not layers:
        raise ModelError(f"{WHERE} the model does not say which layers it repeats; {OTHERWISE}")
    looks = looked_at(model, layers, batch)
    if any(look.in_place for look in looks):
        raise ModelError(f"{WHERE} this model or its method writes into what would be kept; {OTHERWISE}")
    if not all(look.attention for look in looks):
        raise ModelError(
            f"{WHERE} attention of this model is not one operation, whose result could be kept; {OTHERWISE}"
        )
    logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)  # it warns of what was just looked at
    plain: Any = type(layers[0])
    within = torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
    with of_class(layers, _selective_class(plain)), within:
        yield


@cache
def _selective_class(plain: Any) -> type:
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return plain.forward(self, hidden_states, *args, **kwargs)
        kwargs = {name: None if name in CACHES else value for name, value in kwargs.items()}

        def layer(hidden_states: Tensor) -> Any:
            return plain.forward(self, hidden_states, *args, **kwargs)

        return checkpoint(layer, hidden_states, use_reentrant=False, context_fn=_contexts)

    return type(plain.__name__, (plain,), {"forward": forward})


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(UpToAttention())  # type: ignore[no-untyped-call]
