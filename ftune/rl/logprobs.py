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


class _Head(NamedTuple):
    """What happens to the product of hidden states and weights."""

    temperature: float
    softcap: float | None
    scale: float
    chunk_size: int
    with_entropy: bool


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

    z = cap((hidden @ weight.T + bias) * scale) / temperature, where cap(x) = softcap * tanh(x / softcap) (Gemma 2,
    arXiv 2408.00118, section 2), or x without `softcap`. `hidden` is the output of the last norm at the places that
    predict the targets (token ids, int64). The product is made in the dtype of `hidden`, or of autocast where it is on;
    all that follows is in fp32 (float64 for float64).

    The logits of `chunk_size` rows exist at once, in the dtype of the product; beside them up to two working copies in
    fp32, three with a softcap (fewer where kernels are compiled). Without `with_entropy` the entropies are zeros, and
    cost nothing.

    Gives logprobs_N and entropy_N. Gradients flow to `hidden`, and to `weight` and `bias` where they require them, but
    not through gradients (no double backward).
    """
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
    head = _Head(temperature, softcap, scale, chunk_size, with_entropy)
    bias_V = None if bias_V is None else bias_V.to(dtype)
    outputs: tuple[Tensor, Tensor] = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND.to(dtype), weight_VD.to(dtype), bias_V, targets_N, head
    )
    return outputs


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, head: _Head
    ) -> tuple[Tensor, Tensor]:
        measure = fused(_measure, hidden_ND.device.type)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunks = [  # no name holds the logits, so that they are gone before the next ones come
                measure(linear(hidden_ND[rows], weight_VD, bias_V), targets_N[rows, None], head)
                for rows in _chunks(len(hidden_ND), head)
            ]
        measured = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, *measured)
        ctx.head = head
        ctx.set_materialize_grads(False)
        logprobs_N, entropy_N = measured[0].squeeze(1), measured[1].squeeze(1)
        if not head.with_entropy:
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
            for rows in _chunks(len(hidden_ND), ctx.head):
                add(rows)
        return by_hidden, _cast(by_weight, weight_VD), _cast(by_bias, bias_V), None, None


class _Measured(NamedTuple):
    """What is known of each row; all (N, 1)."""

    logprobs: Tensor
    entropy: Tensor
    top: Tensor
    """The largest z."""
    log_total: Tensor
    """log sum exp(z - top). Added to `top`, it would lose the digits that make the row's p sum to 1."""


def _measure(logits_NV: Tensor, targets_N1: Tensor, head: _Head) -> _Measured:
    """The rows' measures. Destroys the logits, if they are wide enough to work in."""
    # Taken from the logits: a compiler would have to keep all of z in memory to look it up there.
    target_N1 = _z(logits_NV.gather(1, targets_N1), head)
    z_NV = _z(logits_NV, head)
    top_N1 = z_NV.amax(1, keepdim=True)
    target_N1 = target_N1 - top_N1
    z_NV.sub_(top_N1)
    if not head.with_entropy:
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
    head: _Head,
) -> Tensor:
    """Gradient with respect to the product, in its dtype. Destroys the logits, if they are wide enough to work in."""
    slope = head.scale / head.temperature  # of z; where there is a cap, times 1 - tanh^2
    by_logprobs_N1 = by_logprobs_N1 * slope
    by_entropy_N1 = None if by_entropy_N1 is None else by_entropy_N1 * slope

    # The one column of the target, apart: a one-hot matrix would cost a pass over everything.
    at_target_N1 = -by_logprobs_N1 * measured.logprobs.expm1()
    if by_entropy_N1 is not None:
        at_target_N1 -= by_entropy_N1 * measured.logprobs.exp() * (measured.logprobs + measured.entropy)
    if head.softcap is not None:
        z_N1 = measured.logprobs + measured.log_total + measured.top
        at_target_N1 *= _cap_slope(z_N1, head.softcap, head.temperature)

    by_others = fused(_by_others, logits_NV.device.type)
    by_logits_NV = by_others(logits_NV, measured, by_logprobs_N1, by_entropy_N1, head)
    return by_logits_NV.scatter_(1, targets_N1, at_target_N1.to(by_logits_NV.dtype))


def _by_others(
    logits_NV: Tensor, measured: _Measured, by_logprobs_N1: Tensor, by_entropy_N1: Tensor | None, head: _Head
) -> Tensor:
    """Gradient with respect to the product as if no column were the target."""
    z_NV = _z(logits_NV, head)
    cap_slope_NV = None if head.softcap is None else _cap_slope(z_NV, head.softcap, head.temperature)
    logp_NV = z_NV.sub_(measured.top).sub_(measured.log_total)
    if by_entropy_N1 is None:
        gradient_NV = logp_NV.exp_().mul_(-by_logprobs_N1)
    else:
        p_NV = logp_NV.exp()
        gradient_NV = logp_NV.add_(measured.entropy).mul_(-by_entropy_N1).sub_(by_logprobs_N1).mul_(p_NV)
    if cap_slope_NV is not None:
        gradient_NV.mul_(cap_slope_NV)
    return gradient_NV.to(logits_NV.dtype)


def _z(logits_NV: Tensor, head: _Head) -> Tensor:
    """What the softmax sees, in at least fp32; in place where the logits are."""
    z_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if head.scale != 1:
        z_NV.mul_(head.scale)
    if head.softcap is not None:
        z_NV.div_(head.softcap).tanh_().mul_(head.softcap)
    if head.temperature != 1:
        z_NV.div_(head.temperature)
    return z_NV


def _cap_slope(z: Tensor, softcap: float, temperature: float) -> Tensor:
    """1 - tanh^2 of the capped logits that became `z`."""
    return 1 - (z * (temperature / softcap)).square()


def _chunks(rows: int, head: _Head) -> list[slice]:
    """All rows in turn; one empty chunk where there are none."""
    return [slice(start, start + head.chunk_size) for start in range(0, max(rows, 1), head.chunk_size)]


def _cast(gradient: Tensor | None, of: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(of.dtype)
