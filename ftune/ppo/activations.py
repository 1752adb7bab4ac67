"""Activation checkpointing that is right with several adapters, switched on for updates and off for generation."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from ftune.core.errors import ModelError
from ftune.ppo.adapters import checkpoint_context


def switch_checkpointing(model: nn.Module, on: bool) -> None:
    """Checkpoint each decoder layer, or none.

    Layers look whether they train before they checkpoint, so they alone are set to it: there is no dropout, and all
    else stays in evaluation mode. Raises ModelError for a model whose layers cannot be checkpointed.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    if not layers:
        raise ModelError("batch.activation_checkpointing: this model's layers cannot be checkpointed; set it to false")
    function = partial(checkpoint, use_reentrant=False, context_fn=checkpoint_context(model))
    for layer in layers:
        layer.gradient_checkpointing = layer.training = on
        layer._gradient_checkpointing_func = function
