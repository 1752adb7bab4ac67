"""Log-probabilities and entropies of tokens from hidden states, without ever holding all logits.

The output layer and the softmax are one autograd function that goes through the rows in chunks. It keeps the hidden
states and four numbers a row; the backward pass makes the logits of each chunk again. With V = 128,256, the logits of
32,768 tokens would be 17 GB in fp32, and their gradient as much.

With z the logits after cap and temperature, p = softmax(z), and L and H a row's log-probability and entropy:
    dL/dz_v = [v = target] - p_v;  dH/dz_v = -p_v * (log p_v + H).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ftune.rl.fused import fused
from ftune.rl.head import Head, cast, product_dtype


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 2048,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """The log-probability log p(target) and the entropy in nats of each row's distribution p = softmax(z).

    z is that of `Head`, of the product hidden @ weight.T + bias. `hidden` is the output of the last norm at the places
    that predict the targets (token ids, int64). The product is made in the dtype of `hidden`, or of autocast where it
    is on; all that follows is in fp32 (float64 for float64).

    The logits of `chunk_size` rows exist at once, in the dtype of the product; beside them up to two working copies in
    fp32, three with a softcap (fewer where kernels are compiled). Without `with_entropy` the entropies are zeros, and
    cost nothing.

    Gives logprobs_N and entropy_N. Gradients flow to `hidden`, and to `weight` and `bias` where they require them, but
    not through gradients (no double backward).
    """
    dtype = product_dtype(hidden_ND)
    head = Head(temperature, softcap, scale, chunk_size)
    bias_V = None if bias_V is None else bias_V.to(dtype)
    outputs: tuple[Tensor, Tensor] = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND.to(dtype), weight_VD.to(dtype), bias_V, targets_N, head, with_entropy
    )
    return outputs


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        measure = fused(_measure, hidden_ND.device.type)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunks = [  # no name holds the logits, so that they are gone before the next ones come
                measure(linear(hidden_ND[rows], weight_VD, bias_V), targets_N[rows, None], head, with_entropy)
                for rows in head.chunks(len(hidden_ND))
            ]
        measured = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, *measured)
        ctx.head = head
        ctx.set_materialize_grads(False)
        logprobs_N, entropy_N = measured[0].squeeze(1), measured[1].squeeze(1)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprobs_N: Tensor | None, by_entropy_N: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, *measured = ctx.saved_tensors
        by_logprobs_N = torch.zeros_like(measured[0][:, 0]) if by_logprobs_N is None else by_logprobs_N
        by_hidden = torch.empty_like(hidden_ND)
        # Chunks are added up in fp32: in bf16 the sum would swallow the later ones.
        wide = measured[0].dtype
        by_weight = torch.zeros_like(weight_VD, dtype=wide) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias_V, dtype=wide) if ctx.needs_input_grad[2] else None

        def add(rows: slice) -> None:
            by_logits = _by_logits(
                linear(hidden_ND[rows], weight_VD, bias_V),
                targets_N[rows, None],
                _Measured(*(column[rows] for column in measured)),
                by_logprobs_N[rows, None],
                None if by_entropy_N is None else by_entropy_N[rows, None],
                ctx.head,
            )
            by_hidden[rows] = by_logits @ weight_VD
            if by_weight is not None:
                by_weight.add_(by_logits.T @ hidden_ND[rows])
            if by_bias is not None:
                by_bias.add_(by_logits.sum(0, dtype=wide))

        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in ctx.head.chunks(len(hidden_ND)):
                add(rows)
        return by_hidden, cast(by_weight, weight_VD), cast(by_bias, bias_V), None, None, None


class _Measured(NamedTuple):
    """What is known of each row; all (N, 1)."""

    logprobs: Tensor
    entropy: Tensor
    top: Tensor
    """The largest z."""
    log_total: Tensor
    """log sum exp(z - top). Added to `top`, it would lose the digits that make the row's p sum to 1."""


def _measure(logits_NV: Tensor, targets_N1: Tensor, head: Head, with_entropy: bool) -> _Measured:
    """The rows' measures. Destroys the logits, if they are wide enough to work in."""
    # Taken from the logits: a compiler would have to keep all of z in memory to look it up there.
    target_N1 = head.z(logits_NV.gather(1, targets_N1))
    z_NV = head.z(logits_NV)
    top_N1 = z_NV.amax(1, keepdim=True)
    target_N1 = target_N1 - top_N1
    z_NV.sub_(top_N1)
    if not with_entropy:
        log_total_N1 = z_NV.exp_().sum(1, keepdim=True).log()
        return _Measured(target_N1 - log_total_N1, torch.zeros_like(top_N1), top_N1, log_total_N1)
    p_NV = z_NV.exp()
    total_N1 = p_NV.sum(1, keepdim=True)
    mean_N1 = p_NV.mul_(z_NV).sum(1, keepdim=True) / total_N1
    log_total_N1 = total_N1.log()
    return _Measured(target_N1 - log_total_N1, log_total_N1 - mean_N1, top_N1, log_total_N1)


def _by_logits(
    logits_NV: Tensor,
    targets_N1: Tensor,
    measured: _Measured,
    by_logprobs_N1: Tensor,
    by_entropy_N1: Tensor | None,
    head: Head,
) -> Tensor:
    """Gradient with respect to the product, in its dtype. Destroys the logits, if they are wide enough to work in."""
    by_logprobs_N1 = by_logprobs_N1 * head.slope
    by_entropy_N1 = None if by_entropy_N1 is None else by_entropy_N1 * head.slope

    # The one column of the target, apart: a one-hot matrix would cost a pass over everything.
    at_target_N1 = -by_logprobs_N1 * measured.logprobs.expm1()
    if by_entropy_N1 is not None:
        at_target_N1 -= by_entropy_N1 * measured.logprobs.exp() * (measured.logprobs + measured.entropy)
    if head.softcap is not None:
        z_N1 = measured.logprobs + measured.log_total + measured.top
        at_target_N1 *= head.cap_slope(z_N1)

    by_others = fused(_by_others, logits_NV.device.type)
    by_logits_NV = by_others(logits_NV, measured, by_logprobs_N1, by_entropy_N1, head)
    return by_logits_NV.scatter_(1, targets_N1, at_target_N1.to(by_logits_NV.dtype))


def _by_others(
    logits_NV: Tensor, measured: _Measured, by_logprobs_N1: Tensor, by_entropy_N1: Tensor | None, head: Head
) -> Tensor:
    """Gradient with respect to the product as if no column were the target."""
    z_NV = head.z(logits_NV)
    cap_slope_NV = None if head.softcap is None else head.cap_slope(z_NV)
    logp_NV = z_NV.sub_(measured.top).sub_(measured.log_total)
    if by_entropy_N1 is None:
        gradient_NV = logp_NV.exp_().mul_(-by_logprobs_N1)
    else:
        p_NV = logp_NV.exp()
        gradient_NV = logp_NV.add_(measured.entropy).mul_(-by_entropy_N1).sub_(by_logprobs_N1).mul_(p_NV)
    if cap_slope_NV is not None:
        gradient_NV.mul_(cap_slope_NV)
    return gradient_NV.to(logits_NV.dtype)
