"""Which attention a flat batch gets: what the machine has, best first, and the switch to it in a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ftune.models.output_head import inner_model
from ftune.speed import documents, varlen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORDS = {
    documents.NAME: "each row by itself",
    varlen.NAME: "PyTorch's kernels for variable lengths",
    "flash_attention_2": "flash-attn 2",
    "flash_attention_3": "flash-attn 3",
    "flex_attention": "FlexAttention with a mask of documents",
}
"""What a run says of each."""


def candidates(device: torch.device) -> list[str]:
    """Names in transformers' attention interface that keep rows apart without a mask of all tokens by all tokens."""
    from transformers import AttentionInterface
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    AttentionInterface.register(documents.NAME, documents.rows_attention)
    if device.type != "cuda":
        return [documents.NAME]
    AttentionInterface.register(varlen.NAME, varlen.varlen_attention)
    installed = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
    }
    return [varlen.NAME, *(name for name, there in installed.items() if there), "flex_attention"]


def switchable(model: "PreTrainedModel") -> bool:
    """Whether the model's layers ask transformers' interface for their attention."""
    return bool(type(inner_model(model))._can_set_attn_implementation())


def switch_attention(model: "PreTrainedModel", name: str) -> None:
    """Let the model's layers compute attention by that implementation."""
    inner_model(model).set_attn_implementation(name)


@contextmanager
def attention(model: "PreTrainedModel", name: str) -> Iterator[None]:
    """The model with another attention for a while."""
    before = inner_model(model).config._attn_implementation
    switch_attention(model, name)
    try:
        yield
    finally:
        switch_attention(model, before)
