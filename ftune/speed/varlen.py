"""Attention over a flat batch by the kernels for variable lengths that come with PyTorch (FlashAttention-2).

They need a GPU and products in bf16 or fp16. T tokens of all rows, H query heads, K heads of keys and values, D the
width of a head.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from ftune.speed.extras import UnsupportedError, refuse_extras

NAME = "ftune_varlen"
"""In transformers' attention interface."""

WIDEST_HEAD = 256
"""Of FlashAttention-2."""

GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""PyTorch 2.13 wants to be told that several query heads share one of keys; 2.11 has no such argument."""


def varlen_attention(
    module: nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it. Gives (1, T, H, D). Raises UnsupportedError for what the kernels do not compute."""
    borders = refuse_extras(module, attention_mask, cu_seq_lens_q, extras)
    if dropout:
        raise UnsupportedError("attention has dropout")
    if query_1HTD.shape[-1] > WIDEST_HEAD or query_1HTD.shape[-1] != value_1KTD.shape[-1]:
        raise UnsupportedError(f"heads are wider than {WIDEST_HEAD}, or those of keys and values differ")
    dtype = _dtype(value_1KTD)
    query, key, value = (one[0].transpose(0, 1).to(dtype) for one in (query_1HTD, key_1KTD, value_1KTD))
    longest = max_length_q or query.shape[0]
    out: Any = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **GROUPED,
    )
    return out[None], None


def _dtype(value: Tensor) -> torch.dtype:
    """Of products: positions are turned in fp32 where weights are, whatever autocast says, but values are not."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        raise UnsupportedError(f"products are in {dtype}; the kernels take bf16 and fp16")
    return dtype
