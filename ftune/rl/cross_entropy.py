"""The loss of next tokens from hidden states: output layer and cross-entropy as one function, its gradient at once.

The rows go through in chunks. Where `token_logprobs` has to make the logits of a chunk again in the backward pass,
since any gradient may come back for each row, the gradient of a sum is known at once: p - [v = target] for each logit.
So each chunk's logits become their own gradient, and that is multiplied out, before the next chunk is made
(as in Liger, arXiv 2410.10989, section 3.2). N rows, V vocabulary, D hidden.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ftune.rl.fused import fused
from ftune.rl.head import Head, cast, product_dtype

CHUNK = 4096
"""Rows that keep a GPU's matrix units busy: products of 512 rows run at three quarters of their speed."""


class Summed(NamedTuple):
    """Over all rows."""

    loss: Tensor
    """Sum of -log p(target) in nats, fp32 (float64 for float64)."""
    correct: Tensor
    """Of how many targets no other token was more likely, int64, without gradient."""


def cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = CHUNK,
) -> Summed:
    """The summed loss of `targets` (token ids, int64), where p is the softmax of what `Head` makes of the product.

    `hidden` is the output of the last norm at the places that predict the targets. The product is made in its dtype, or
    in autocast's; all that follows is in fp32, gradients of weights are added up in fp32. With gradients, the logits of
    `chunk_size` rows exist at once, in the dtype of the product and in fp32 (once where both are the same, or where
    kernels are compiled).

    Gradients flow to `hidden`, and to `weight` and `bias` where they require them; the backward pass only scales what
    the forward pass made, and can be gone through once.
    """
    head = Head(softcap=softcap, scale=scale, chunk_size=chunk_size)
    hidden_ND = hidden_ND.to(product_dtype(hidden_ND))
    outputs = _CrossEntropy.apply(hidden_ND, weight_VD, bias_V, targets_N, head, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return Summed(*outputs)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        head: Head,
        trains: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        weight, bias = weight_VD.to(hidden_ND.dtype), cast(bias_V, hidden_ND)
        needs = [trains and needed for needed in ctx.needs_input_grad[:3]]
        by_hidden = torch.empty_like(hidden_ND) if needs[0] else None
        by_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else None
        by_bias = torch.zeros_like(weight[:, 0], dtype=wide) if needs[2] else None
        measure = fused(_measure, hidden_ND.device.type)
        losses, correct = [], []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows in head.chunks(len(hidden_ND)):
                hidden, targets_N1 = hidden_ND[rows], targets_N[rows, None]
                by_logits = linear(hidden, weight, bias)  # what they become
                loss_N1, correct_N1, at_target_N1 = measure(by_logits, targets_N1, head, any(needs))
                losses.append(loss_N1.sum())
                correct.append(correct_N1.sum())
                if any(needs):
                    by_logits.scatter_(1, targets_N1, at_target_N1.to(by_logits.dtype))
                if by_hidden is not None:
                    torch.mm(by_logits, weight, out=by_hidden[rows])
                if by_weight is not None:
                    _add_product(by_weight, by_logits.T, hidden)
                if by_bias is not None:
                    by_bias.add_(by_logits.sum(0, dtype=wide))
                del by_logits  # gone before the next chunk's come
        total = torch.stack(correct).sum()
        ctx.gradients = by_hidden, cast(by_weight, weight_VD), cast(by_bias, bias_V)
        ctx.mark_non_differentiable(total)
        return torch.stack(losses).sum(), total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if one is None else one.mul_(by_loss) for one in gradients), None, None, None


def _measure(logits_NV: Tensor, targets_N1: Tensor, head: Head, trains: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each row, whether no other token was more likely, and the gradient of the target's logit.

    The logits become their own gradient, but for the targets'. Without `trains` they are merely destroyed, if they are
    wide enough to work in, and what stands for a gradient is none.
    """
    # Taken from the logits: a compiler would have to keep all of z in memory to look it up there.
    target_N1 = head.z(logits_NV.gather(1, targets_N1))
    z_NV = head.z(logits_NV)
    top_N1 = z_NV.amax(1, keepdim=True)
    cap_slope_NV = head.cap_slope(z_NV) if trains and head.softcap is not None else None
    p_NV = z_NV.sub_(top_N1).exp_()
    total_N1 = p_NV.sum(1, keepdim=True)
    logprob_N1 = target_N1 - top_N1 - total_N1.log()
    correct_N1 = target_N1 >= top_N1
    if not trains:
        return -logprob_N1, correct_N1, logprob_N1
    at_target_N1 = logprob_N1.expm1() * head.slope
    gradient_NV = p_NV.mul_(head.slope / total_N1)
    if cap_slope_NV is not None:
        at_target_N1 *= head.cap_slope(target_N1)
        gradient_NV.mul_(cap_slope_NV)
    logits_NV.copy_(gradient_NV)
    return -logprob_N1, correct_N1, at_target_N1


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, where the total may be wider."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.add_(left @ right)
