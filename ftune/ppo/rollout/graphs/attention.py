"""Attention of one new token a row to what is in the cache."""

from typing import NamedTuple

import torch
from torch.nn import functional

from ftune.ppo.rollout.graphs.layout import Shape


class Spans(NamedTuple):
    """Where rows begin, as FlashAttention wants to be told: both int32, (B + 1)."""

    queries: torch.Tensor
    cached: torch.Tensor


def flash_serves(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's own FlashAttention reads rows of different lengths here (Ampere or later)."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or head_dim % 8 or head_dim > 256:
        return False
    known = {argument.name for argument in torch.ops.aten._flash_attention_forward.default._schema.arguments}
    return "seqused_k" in known and torch.cuda.get_device_capability(device) >= (8, 0)


def attend(
    q_BND: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    used_B: torch.Tensor,
    shape: Shape,
    spans: Spans | None,
) -> torch.Tensor:
    """Attention of each row's token to the first `used_B` places of its own part of the cache.

    `keys` and `values` have the shape (B * S, K, D). Gives (B, N * D).
    `spans` is for FlashAttention, where `flash_serves`.
    """
    rows = q_BND.shape[0]
    places = keys.shape[0] // rows
    if spans is not None:
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            q_BND.contiguous(),
            keys,
            values,
            spans.queries,
            spans.cached,
            1,
            places,
            0.0,
            False,
            False,
            scale=shape.scaling,
            seqused_k=used_B,
        )[0]
        return out.reshape(rows, -1)
    k, v = (cached.view(rows, places, shape.kv_heads, -1).transpose(1, 2) for cached in (keys, values))
    seen = torch.arange(places, device=q_BND.device) < used_B[:, None]
    out = functional.scaled_dot_product_attention(
        q_BND[:, :, None], k, v, attn_mask=seen[:, None, None], scale=shape.scaling, enable_gqa=True
    )
    return out.reshape(rows, -1)


def attend_causally(q_BPND: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Attention of each token to itself and those before it in its row: (B, P, N * D)."""
    q, k, v = (each.transpose(1, 2) for each in (q_BPND, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=shape.scaling, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)
