"""An attention that keeps what PyTorch's kernels for variable lengths keep, for machines without a GPU.

T tokens, H query heads, K heads of keys and values, D the width of a head. What it computes is nothing.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "kept_by_varlen"
"""In transformers' attention interface."""


@torch.library.custom_op("ftune_tests::rows_attention", mutates_args=())
def _rows(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_zeros(query.shape), query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float32)


@_rows.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)


@torch.library.custom_op("ftune_tests::rows_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)


@_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    slopes: tuple[Tensor, ...] = _backward(gradient, *ctx.saved_tensors)
    return slopes


_rows.register_autograd(_differentiate, setup_context=_keep)


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **extras: Any) -> tuple[Tensor, None]:
    """As transformers calls it, with (1, H or K, T, D). Gives (1, T, H, D) in the dtype of products."""
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else value.dtype
    query, key, value = (each[0].transpose(0, 1).to(dtype) for each in (query, key, value))
    return _rows(query, key, value)[0][None], None


def register() -> None:
    """Let models be switched to it."""
    AttentionInterface.register(NAME, attention)
