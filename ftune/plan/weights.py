"""Bytes of weights: frozen ones as they are stored, trained ones in fp32."""

from ftune.plan.folded import added_weights, first_matrices
from ftune.plan.job import BYTES, Job
from ftune.plan.shape import ModelShape

FP32 = 4


def nf4_bytes(numbers: int, *, double_quant: bool = True) -> int:
    """NF4 (QLoRA, arXiv:2305.14314, section 3): 4 bits, and for each 64 numbers a scale.

    A scale is 32 bits, or 8 bits and 32 bits for each 256 scales with double quantisation: 0.5 or 0.127 bits a number.
    """
    blocks = -(-numbers // 64)
    scales = blocks + 4 * -(-blocks // 256) if double_quant else 4 * blocks
    return -(-numbers // 2) + scales


def frozen_bytes(job: Job) -> int:
    """The model's weights that do not train and what a method adds to them, on the device of one rank."""
    return _part(job) if job.spread.parameters == "none" else 0


def offloaded_bytes(job: Job) -> int:
    """The same outside of it, where weights are offloaded."""
    return 0 if job.spread.parameters == "none" else _part(job)


def _part(job: Job) -> int:
    stored = stored_bytes(job.shape, job.dtype, job.quantization, double_quant=job.double_quant)
    whole = max(0, stored - job.width * job.adapter.base) + FP32 * job.adapter.frozen
    whole += job.width * added_weights(job)
    spread = job.spread
    if not (job.split or (spread.type == "zero" and spread.stage == 3)):
        return whole
    return -(-whole // (spread.processes if spread.hybrid else spread.world))


def stored_bytes(shape: ModelShape, dtype: str, quantization: str, *, double_quant: bool = True) -> int:
    """Frozen weights. Only linear layers of decoder layers are quantised: embeddings, norms and head stay as they are.

    int8 (arXiv:2208.07339) has a byte a number and an fp32 scale a row.
    """
    width = BYTES[dtype]
    if quantization == "none":
        return width * shape.parameters
    rest = width * (shape.parameters - shape.layers * shape.layer_weights)
    if quantization == "nf4":
        each = [nf4_bytes(linear.weights, double_quant=double_quant) for linear in shape.layer_linears]
    else:
        each = [linear.weights + FP32 * linear.outputs for linear in shape.layer_linears]
    return rest + shape.layers * sum(each)


def copies(job: Job) -> int:
    """Copies that autocast makes of wider weights for products, all alive until their layer's backward pass.

    Embeddings and norms are not multiplied, and the head is cast in parts. Where activations are checkpointed, copies
    stay until the forward pass ends, and are made again for the layer that is computed again. Those in FP8 are made
    again for each backward pass.
    """
    if job.width == job.trained_width or job.spread.type == "zero" or job.split or job.fp8:
        return 0
    if job.folded:
        return job.width * first_matrices(job)
    weights = job.shape.layers * job.shape.layer_weights
    return job.width * (weights if job.full else job.adapter.parameters + min(job.adapter.base, weights))
