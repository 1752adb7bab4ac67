"""What methods share that put virtual tokens before the text: limits, and the order of padding."""

from typing import TYPE_CHECKING, Any

from ftune.peft.base import Feature

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module

LIMITS: dict[Feature, str] = {
    "packing": "virtual tokens go before one row, so packed rows would have to share them; use 'data.packing: false'",
    "step_zero": "virtual tokens are read by every token from the first step on; use 'peft: lora' to start as the base",
    "merge": "virtual tokens are inputs, not weights, so there is nothing to add them to; load the adapter with peft",
}
"""What no method with virtual tokens goes together with."""

KEYS_LIMITS: dict[Feature, str] = {
    **LIMITS,
    "activation_checkpointing": "transformers 5 drops the cache that holds the prefix while it checkpoints; "
    "lower 'batch.micro_batch_size', or use 'peft: prompt'",
    "encoder_decoder": "peft 0.21 gives the prefix to the decoder alone, and half of it to no layer; use 'peft: prompt'",
}
"""The same where they are keys and values of each layer."""


def in_fp32(model: "PeftModel") -> "PeftModel":
    """The model with what trains in fp32: the copy of a head that peft makes has the model's own dtype."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
