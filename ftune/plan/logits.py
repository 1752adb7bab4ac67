"""The output head: logits as the loss needs them, at the start of the backward pass.

The fused loss takes 4,096 trained tokens at a time, whose logits become their own gradients at once. TRL 1.16 makes
them in tiles of 4,096 tokens x 32,768 words of the vocabulary, once for the loss and once again for the gradients,
which it adds up in fp32. PPO goes through the vocabulary whole, 2,048 rows at a time. Without such a head the logits of
all tokens stand in the dtype of products and in fp32, with their gradients.
"""

from ftune.plan.job import Job

FP32 = 4
FUSED_TOKENS = 4_096
"""Of `ftune.rl.cross_entropy`."""

TILE_TOKENS, TILE_WORDS = 4_096, 32_768
WHOLE = 12
"""Bytes a logit where all stand at once: logits, log-softmax and gradient in fp32; or the first in 16 bit, and its
gradient in 16 bit beside the others."""

CHUNK = 2_048
"""Rows of `ftune.rl.logprobs`."""


def head_bytes(job: Job) -> int:
    """Bytes at the head's backward pass beside what the layers keep."""
    if job.kind == "rm":
        return 2 * FP32 * job.batch_tokens
    if job.kind == "ppo":
        chunk = chunk_rows(job) * job.shape.vocab * 2 * job.width
        return chunk + _gradient(job, FP32 + 2 * job.width)  # the sum, a chunk's part, and the weight as it was cast
    if job.loss == "fused":
        return _fused(job)
    if job.loss == "whole":
        return job.batch_tokens * job.shape.vocab * WHOLE + _gradient(job, job.width)
    return _tiled(job)


def chunk_rows(job: Job) -> int:
    """Rows of PPO's logits at once: only those of completions are wanted."""
    tokens = job.roles.new_tokens if job.roles else job.tokens
    return min(CHUNK, job.micro_batch_size * tokens)


def kept_after(job: Job) -> int:
    """Bytes of gradients that the head leaves behind, where it trains."""
    return _weight(job) * (FP32 if job.stream_width == FP32 else job.width)


def _fused(job: Job) -> int:
    """Logits, hidden states and their gradient, the head as it was cast, and the sum of its gradients.

    Hidden states are there as the last norm made them, and those of trained tokens in the dtype of products; of how
    many tokens train nobody knows: of all of them at worst.
    """
    shape, tokens, trained = job.shape, job.batch_tokens, _weight(job)
    at_once = min(tokens, FUSED_TOKENS) * shape.vocab
    states = tokens * shape.hidden * (job.stream_width + 2 * job.width)
    cast = job.width * trained if job.stream_width > job.width else 0
    product = job.width * trained if job.width < FP32 and not job.on_gpu else 0  # of a chunk, to be added in fp32
    return states + cast + FP32 * trained + max(at_once * _logit(job), at_once * job.width + product)


def _logit(job: Job) -> int:
    """Bytes of a logit while it becomes its gradient, in its place.

    Where that is not one kernel, the softmax in fp32 is beside it, unless logits are fp32 themselves; and two tensors
    that the slope of a soft cap takes.
    """
    if job.on_gpu:
        return job.width
    narrow = job.width if job.width < FP32 else 0
    return narrow + FP32 + (2 * FP32 if job.shape.scores == "capped" else 0)


def _tiled(job: Job) -> int:
    """A tile, a part of the weight in the dtype of products, hidden states of trained tokens and their gradient."""
    tokens, hidden = job.batch_tokens, job.shape.hidden
    tile = min(tokens, TILE_TOKENS) * TILE_WORDS * job.width
    part = min(TILE_WORDS, job.shape.vocab) * hidden * job.width if job.stream_width > job.width else 0
    states = tokens * hidden * (job.stream_width + FP32)
    narrow = job.width if job.stream_width < FP32 else 0  # the sum in fp32 and its copy in the weight's own dtype
    return tile + part + states + _gradient(job, FP32 + narrow)


def _gradient(job: Job, width: int) -> int:
    return _weight(job) * width


def _weight(job: Job) -> int:
    """Numbers of the head's weight, where it trains."""
    numbers = job.shape.head.weights
    return numbers if job.full or job.adapter.parameters > numbers else 0  # an adapter as large has a copy of the head
