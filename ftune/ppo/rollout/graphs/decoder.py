"""The mathematics of a Llama-like decoder, as transformers computes it, on plain tensors."""

from collections.abc import Callable

import torch
from torch.nn import functional

from ftune.ppo.rollout.graphs.attention import Spans, attend, attend_causally
from ftune.ppo.rollout.graphs.layout import Shape
from ftune.ppo.rollout.graphs.weights import Layer, apply

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm, in fp32 inside (arXiv:1910.07467, equation 4)."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: `x` (..., heads, D), `cos` and `sin` (..., 1, D) (arXiv:2104.09864, equation 34)."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def step_block(
    x_BH: torch.Tensor,
    layer: Layer,
    shape: Shape,
    cos: torch.Tensor,
    sin: torch.Tensor,
    places_B: torch.Tensor,
    used_B: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    spans: Spans | None,
) -> torch.Tensor:
    """A decoder layer for one new token a row, which is written to `places_B` of the cache (B * S, K, D)."""

    def attending(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys.index_copy_(0, places_B, k)
        values.index_copy_(0, places_B, v)
        return attend(q, keys, values, used_B, shape, spans)

    return _block(x_BH, layer, shape, cos, sin, attending)


def prompt_block(
    x_BPH: torch.Tensor,
    layer: Layer,
    shape: Shape,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """A decoder layer for whole prompts, padded on the right, which are written to the cache's part (B, P, K, D).

    What padding leaves there is overwritten by the tokens to come before anything attends to it.
    """

    def attending(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys.copy_(k)
        values.copy_(v)
        return attend_causally(q, k, v, shape)

    return _block(x_BPH, layer, shape, cos, sin, attending)


def _block(
    x: torch.Tensor, layer: Layer, shape: Shape, cos: torch.Tensor, sin: torch.Tensor, attending: Attend
) -> torch.Tensor:
    parts = apply(layer.qkv, normed(x, layer.entry_norm, shape.eps))
    q, k, v = (part.view(*part.shape[:-1], -1, shape.head_dim) for part in parts)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = normed(q, layer.q_norm, shape.eps), normed(k, layer.k_norm, shape.eps)
    mixed = attending(rotated(q, cos, sin), rotated(k, cos, sin), v)
    x = x + apply(layer.out, mixed)[0]
    gate, up = apply(layer.gate_up, normed(x, layer.middle_norm, shape.eps))
    return x + apply(layer.down, functional.silu(gate) * up)[0]
