"""Bytes that communication takes: buckets of gradients, and weights gathered for a moment."""

from ftune.plan.job import Job

FP32 = 4
LIVE = 1_000_000_000
"""Gathered numbers that ZeRO-3 keeps at most (`stage3_max_live_parameters` of DeepSpeed 0.19)."""


def resident_buckets(job: Job) -> int:
    """What stands from the first step on: gradients in DDP's buckets, and those that ZeRO-3 sums its part in."""
    spread = job.spread
    if spread.type == "ddp" and spread.world > 1:
        return job.trained_width * job.trained
    if spread.type == "zero" and spread.stage == 3:
        return job.width * job.trained // spread.world if spread.optimizer == "none" else 0
    return 0


def going_out(job: Job) -> int:
    """Where ZeRO-2 lays a gradient before it goes to the CPU: room for the largest (DeepSpeed 0.19)."""
    spread, shape = job.spread, job.shape
    if spread.type != "zero" or spread.stage == 3 or spread.optimizer == "none":
        return 0
    largest = max(shape.head.weights, *(linear.weights for linear in shape.layer_linears))
    return job.width * min(largest, job.trained)


def gathered(job: Job) -> int:
    """Weights that are whole for the layers at work, at the start of the backward pass.

    FSDP2 has one decoder layer, and the next one on its way, and keeps embedding and head from the forward pass on;
    without resharding all layers. ZeRO-3 keeps what it will need soon.
    """
    spread, shape = job.spread, job.shape
    outer = shape.parameters - shape.layers * shape.layer_parameters
    if job.split:
        layers = 2 if spread.reshard else shape.layers
        return job.width * (outer + min(layers, shape.layers) * shape.layer_parameters)
    if spread.type == "zero" and spread.stage == 3:
        return job.width * min(shape.parameters, LIVE + shape.head.weights)
    return 0


def sent(job: Job) -> int:
    """Buckets that gradients go through while the backward pass runs.

    FSDP2 sums a layer's gradients in fp32 beside the layer's own. ZeRO fills one bucket while it sends another.
    """
    spread, shape = job.spread, job.shape
    if spread.world > 1 and spread.type == "fsdp":
        return (job.width + FP32) * shape.layer_parameters if job.full else 0
    if spread.type == "zero":
        size = min(spread.bucket_size, 2 * job.trained)
        return job.width * size * (2 if spread.overlap and spread.stage < 3 else 1)
    return 0
