"""Bytes that trained parameters cost beside themselves: gradients and the optimiser's states, whole and divided.

Mixed-precision training with Adam costs 16 bytes a parameter (ZeRO, arXiv:1910.02054, section 3.1): 2 for the weight, 2
for its gradient, 12 for the fp32 weight and two moments. Here, without ZeRO, weights and gradients are fp32 themselves,
which is 16 too, and 8 where the optimiser takes all of them in bf16. ZeRO's stages divide the 12, then gradients, then
weights over the processes (section 5).
"""

from dataclasses import dataclass

from ftune.plan.job import Job, Optimizer

FP32, BF16 = 4, 2

PAGED_FROM = 100_000
"""Numbers from which on bitsandbytes keeps a parameter's states in paged memory."""

BLOCK = 256
"""Numbers that share a scale in 8-bit states (arXiv:2110.02861, section 2.1; bitsandbytes since 0.44)."""


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of what trains, on one rank."""

    weights: int
    """Trained parameters as they are computed with."""
    masters: int
    """fp32 copies of them, where they are computed with in another dtype."""
    gradients: int
    """After the backward pass."""
    moments: int
    """The optimiser's states on the device."""
    host: int
    """In the CPU's memory."""
    disk: int
    """On a drive."""


def moment_bytes(optimizer: Optimizer, parameters: int, rows_and_columns: int) -> int:
    """The optimiser's states of so many parameters, wherever they lie.

    AdamW keeps two fp32 moments, or bf16 ones; its 8-bit form (arXiv:2110.02861) a byte and a share of an fp32 scale.
    Adafactor (arXiv:1804.04235, section 3) keeps a number a row and a column of each matrix, SGD without momentum none.
    """
    if optimizer == "sgd":
        return 0
    if optimizer == "adamw_bf16":
        return 2 * BF16 * parameters
    if optimizer == "adafactor":
        return FP32 * rows_and_columns
    if optimizer.endswith("8bit"):
        return 2 * (parameters + FP32 * -(-parameters // BLOCK))
    return 2 * FP32 * parameters


def states(job: Job) -> States:
    """What trains, on one rank of the job."""
    trained, spread = job.trained, job.spread
    moments = moment_bytes(job.optimizer, trained, _rows_and_columns(job)) + _of_embeddings(job)
    if spread.type == "zero":
        return _zero(job, moments)
    ways = spread.processes if spread.hybrid else spread.world
    if spread.type == "fsdp" and spread.world > 1:
        parts = [-(-each // ways) for each in (FP32 * trained, FP32 * trained, moments)]
        if spread.parameters != "none":
            return States(0, 0, 0, 0, sum(parts), 0)
        return States(parts[0], 0, parts[1], parts[2], 0, 0)
    if job.optimizer.startswith("paged"):
        small = moment_bytes(job.optimizer, _in_small_matrices(job), 0)
        return States(FP32 * trained, 0, FP32 * trained, small, moments - small, 0)
    return States(job.trained_width * trained, 0, job.trained_width * trained, moments, 0, 0)


def _zero(job: Job, moments: int) -> States:
    """ZeRO: stage 1 divides fp32 weights and moments, stage 2 gradients too, stage 3 weights too (section 5).

    Offloading takes the gradients along (arXiv:2101.06840), and with them 2 bytes a parameter that lie ready to go.
    """
    spread, trained = job.spread, job.trained
    ways = spread.world
    weights = job.width * trained // (ways if spread.stage == 3 else 1)
    gradients = job.width * trained // (ways if spread.stage >= 2 else 1)
    masters, moments = FP32 * trained // ways, moments // ways
    at_rest = {place: weights if place == spread.parameters else 0 for place in ("none", "cpu", "nvme")}
    if spread.optimizer == "none":
        return States(at_rest["none"], masters, gradients, moments, at_rest["cpu"], at_rest["nvme"])
    kept, sums = masters + moments, FP32 * trained // ways
    host = at_rest["cpu"] + sums + (kept if spread.optimizer == "cpu" else 0)
    return States(at_rest["none"], 0, 0, 0, host, at_rest["nvme"] + (kept if spread.optimizer == "nvme" else 0))


def _of_embeddings(job: Job) -> int:
    """What 8-bit states of embeddings are more: transformers keeps them in fp32 (`Trainer.create_optimizer`)."""
    if not job.optimizer.endswith("8bit") or not job.full or job.kind == "ppo":
        return 0
    numbers = job.shape.embedding_parameters
    return moment_bytes("adamw", numbers, 0) - moment_bytes(job.optimizer, numbers, 0)


def _in_small_matrices(job: Job) -> int:
    """Adapters' parameters in matrices that are too small for paged memory."""
    widths = {linear.name: (linear.inputs, linear.outputs) for linear in job.shape.layer_linears}
    each = [rank * width for name, rank in job.adapter.low_rank for width in widths[name]]
    return job.shape.layers * sum(numbers for numbers in each if numbers < PAGED_FROM)


def _rows_and_columns(job: Job) -> int:
    """Rows and columns of all trained matrices."""
    shape, adapter = job.shape, job.adapter
    own = shape.layers * sum(linear.inputs + linear.outputs for linear in shape.layer_linears) + sum(
        table.rows + table.width for table in shape.embeddings
    )
    return own * min(1, adapter.base // max(1, shape.parameters)) + adapter.parameters // 8
