"""How much a run computes, and so how long it takes and what it costs.

A product of a token with P weights is 2 P operations forward, 2 P for the gradient of its input and 2 P for that of the
weights (arXiv:2001.08361, section 2.1): 6 P where weights train, 4 P where they are frozen. Attention adds 4 S
operations a layer and number of a query forward, for S tokens of a row, and twice as many backward (PaLM,
arXiv:2204.02311, appendix B). Checkpointing computes the layers nearly once more.
"""

from dataclasses import dataclass, replace

from ftune.plan.activations import row_tokens, trains_linears
from ftune.plan.gpus import Gpu
from ftune.plan.job import Job, Roles
from ftune.plan.selected import ahead_of_attention
from ftune.plan.weights import stored_bytes

SHARE = 0.35
"""Of the peak, where nothing was measured: `ftune sft` reached 0.34 (8B QLoRA) to 0.43 (8B, all weights) on an H200."""

READ_SHARE = 0.6
"""Of the memory's bandwidth that decoding reaches."""

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Work:
    """A run's work on all devices."""

    flops: float
    """Products and sums."""
    read: float = 0.0
    """Bytes that decoding reads, on one device."""

    def hours(self, gpu: Gpu, devices: int, share: float = SHARE) -> float | None:
        """How long it takes at a share of the peak; None for a device whose speed is not known."""
        if gpu.flops is None or gpu.bandwidth is None:
            return None
        return (self.flops / (gpu.flops * share * devices) + self.read / (gpu.bandwidth * READ_SHARE)) / HOUR


def forward_flops(job: Job, *, head: bool = True) -> float:
    """Of one token through all layers, and the head."""
    shape = job.shape
    linears = shape.layers * shape.layer_weights + (shape.head.weights if head else 0)
    return 2.0 * linears + 2.0 * job.adapter.parameters + 4.0 * shape.layers * shape.query_width * row_tokens(job)


def token_flops(job: Job) -> float:
    """Of one trained token: forward, backward, and forward once more where activations are checkpointed."""
    shape = job.shape
    below = job.adapter.lowest_layer / shape.layers
    forward = forward_flops(job)
    inputs = forward * (1 - below)
    if trains_linears(job):
        weights = 2.0 * (shape.layers * (1 - below) * shape.layer_weights + (shape.head.weights if job.full else 0))
        weights += 4.0 * shape.layers * (1 - below) * shape.query_width * row_tokens(job)
    else:
        weights = 2.0 * job.adapter.parameters + 4.0 * shape.layers * shape.query_width * row_tokens(job) * (1 - below)
    return forward + inputs + weights + (_again(job) * (1 - below) if job.checkpointing else 0.0)


def useful_flops(job: Job, tokens: int, squares: int, trained: int) -> float:
    """Of training on rows of `tokens` in all, whose squares add up to `squares`, with labels on `trained` of them.

    As model FLOPs utilisation counts (arXiv:2204.02311, appendix B): what checkpointing computes again is of no use.
    Neither is the head where there is no label, nor what pads a batch.
    """
    shape = job.shape

    def of_token(length: int, outputs: int) -> float:
        alone = replace(job, shape=replace(shape, head=replace(shape.head, outputs=outputs)), tokens=length)
        return token_flops(replace(alone, packed=False, checkpointing=False))

    each = of_token(0, 0)
    pair, head = of_token(1, 0) - each, of_token(0, shape.head.outputs) - each
    return each * tokens + pair * squares + (head * trained if job.kind == "sft" else 0.0)


def _again(job: Job) -> float:
    """Of a token through all layers a second time, each but for its last product, of which nothing is kept.

    Nor for what selective checkpointing keeps.
    """
    missing = [linear.weights for linear in job.shape.layer_linears if linear.reads == "block"]
    if job.checkpointing == "selective":
        missing += [linear.weights for linear in ahead_of_attention(job)]
        missing.append(2 * job.shape.query_width * row_tokens(job))
    return forward_flops(job, head=False) - 2.0 * job.shape.layers * sum(missing)


def training_work(job: Job, steps: int) -> Work:
    """Of so many optimiser steps on all processes."""
    return Work(token_flops(job) * job.batch_tokens * job.accumulation * job.spread.world * steps)


def ppo_work(job: Job, iterations: int, epochs: int) -> Work:
    """Of so many iterations: completions, judging them by each role, and epochs of updates on them.

    Decoding is bound by the memory: each step reads the weights once for all rows at once.
    """
    roles = job.roles or Roles()
    tokens = float(roles.completions * (roles.prompt_tokens + roles.new_tokens))
    passes = 2 + (roles.value != "trunk") + (roles.reference != "none") + bool(roles.reward_adapters)
    judged = passes * forward_flops(job) + sum(2.0 * shape.parameters for shape in roles.reward_models)
    trained = token_flops(job) * (1 if roles.value == "trunk" else 2)
    waves = -(-roles.completions // max(1, roles.at_once))
    weights = stored_bytes(job.shape, job.dtype, "none", double_quant=True)
    return Work(
        iterations * job.spread.world * tokens * (judged + epochs * trained),
        float(iterations * waves * roles.new_tokens * weights),
    )


def cost(hours: float, devices: int, price: float) -> float:
    """Money for so many hours of so many devices, each at a price an hour."""
    return hours * devices * price
