"""Attention over a flat batch, a row at a time, by PyTorch's own: what a CPU does best, and exact in any dtype.

T tokens of all rows, H query heads, K heads of keys and values, D the width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ftune.speed.extras import refuse_extras

NAME = "ftune_rows"
"""In transformers' attention interface."""


def rows_attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it. Gives (1, T, H, D). Raises UnsupportedError for what it does not compute."""
    borders = refuse_extras(module, attention_mask, cu_seq_lens_q, extras)
    lengths = borders.diff().tolist()
    parts = [
        scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=(mask := _window(query, sliding_window)),
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for query, key, value in zip(
            *(torch.split(one, lengths, 2) for one in (query_1HTD, key_1KTD, value_1KTD)), strict=True
        )
        if query.shape[2]
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _window(query: Tensor, width: int | None) -> Tensor | None:
    """Which keys a token sees, where it does not see all before it: itself and those less than `width` back."""
    tokens = query.shape[2]
    if width is None or tokens <= width:
        return None
    place = torch.arange(tokens, device=query.device)
    back = place[:, None] - place
    return (back >= 0) & (back < width)
