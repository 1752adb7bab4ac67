"""Tokens drawn on the device, without a word to the host."""

import torch

Noise = torch.Tensor


def draw(logits_BV: torch.Tensor, noise_BV: Noise, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row, and its log-probability under all of `logits_BV` (at the sampling temperature, fp32).

    `noise_BV` is drawn from Exp(1): the largest of p / noise falls on a token with just that token's probability, as
    the first of independent exponential clocks does.
    """
    logprobs_BV = logits_BV.log_softmax(-1)
    tokens_B = (_restricted(logprobs_BV, top_k, top_p) - noise_BV.log()).argmax(-1)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None])[:, 0]


def _restricted(logprobs_BV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Minus infinity for all but the likeliest tokens; first `top_k` of them, then `top_p` of what these have."""
    if top_k:
        least = logprobs_BV.topk(min(top_k, logprobs_BV.shape[1]), -1).values[:, -1:]
        logprobs_BV = logprobs_BV.masked_fill(logprobs_BV < least, float("-inf"))
    if top_p < 1:
        ordered, order = logprobs_BV.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        logprobs_BV = logprobs_BV.masked_fill(beyond.scatter(1, order, beyond), float("-inf"))
    return logprobs_BV
