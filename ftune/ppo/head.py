"""From hidden states to log-probabilities without logits of whole sequences, and the proof that it is the same."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftune.models.output_head import OutputHead, decoder_of
from ftune.models.output_head import output_head_of as found_head
from ftune.rl.logprobs import token_logprobs

FP32_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


class Spots(NamedTuple):
    """N tokens of a batch whose log-probabilities are wanted; none is the first of its row."""

    rows_N: Tensor
    places_N: Tensor


class Read(NamedTuple):
    """What a pass over a batch gives."""

    logprobs_N: Tensor
    entropy_N: Tensor
    hidden_BSD: Tensor


def output_head_of(model: Any) -> OutputHead | None:
    """How the model makes logits; None where that is more than a linear layer, or the layer is quantised or adapted."""
    head = found_head(model)
    return head if isinstance(head, OutputHead) else None


def read(
    model: Any, head: OutputHead | None, ids_BS: Tensor, spots: Spots, temperature: float, with_entropy: bool = True
) -> Read:
    """One pass over right-padded rows. Without a head, logits of whole rows are made as the model makes them."""
    before = spots.rows_N, spots.places_N - 1
    targets_N = ids_BS[spots.rows_N, spots.places_N]
    if head is not None:
        hidden_BSD = hidden_states(model, ids_BS)
        linear = head.linear
        measured = token_logprobs(
            hidden_BSD[before],
            linear.weight,
            targets_N,
            temperature=temperature,
            bias_V=linear.bias,
            softcap=head.softcap,
            scale=head.scale,
            with_entropy=with_entropy,
        )
        return Read(*measured, hidden_BSD)
    logits_BSV, hidden_BSD = _whole(model, ids_BS)
    log_NV = torch.log_softmax(logits_BSV[before].float() / temperature, dim=-1)
    entropy_N = -(log_NV.exp() * log_NV).sum(-1) if with_entropy else log_NV.new_zeros(len(log_NV))
    return Read(log_NV.gather(1, targets_N[:, None]).squeeze(1), entropy_N, hidden_BSD)


def hidden_states(model: Any, ids_BS: Tensor) -> Tensor:
    """Of the last layer, behind the last norm; shape (B, S, D)."""
    hidden_BSD: Tensor = decoder_of(model)(input_ids=ids_BS, use_cache=False).last_hidden_state
    return hidden_BSD


def _whole(model: Any, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and hidden states of the given tokens, virtual ones before them left out."""
    seen: list[Tensor] = []
    hook = decoder_of(model).register_forward_hook(lambda module, given, out: seen.append(out.last_hidden_state))
    try:
        logits_BSV: Tensor = model(input_ids=ids_BS, use_cache=False).logits
    finally:
        hook.remove()
    width = ids_BS.shape[1]
    return logits_BSV[:, -width:], seen[0][:, -width:]


@torch.no_grad()
def head_differs(model: Any, head: OutputHead, ids_S: Tensor) -> str | None:
    """Why log-probabilities of one row of tokens are not those of the model's own logits; None where they are."""
    ids_BS = ids_S[None]
    places_N = torch.arange(1, ids_BS.shape[1], device=ids_BS.device)
    spots = Spots(torch.zeros_like(places_N), places_N)
    ours, plain = (read(model, way, ids_BS, spots, 1.0, with_entropy=False).logprobs_N for way in (head, None))
    difference = float((ours - plain).abs().mean())
    exact = next(decoder_of(model).parameters()).dtype == torch.float32
    if difference <= (FP32_TOLERANCE if exact else HALF_TOLERANCE):
        return None
    return f"its logits are more than one linear layer (log-probabilities differ by {difference:.3g} on average)"
