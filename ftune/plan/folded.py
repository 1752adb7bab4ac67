"""LoRA folded into the base's products: its first matrices as further columns of the weights that read the same input.

Layers that share an input, as those of queries, keys and values do, are one product then. Its low-rank columns are as
many as the sum of their ranks, rounded up to what matrix units like.
"""

from ftune.plan.job import Job
from ftune.plan.shape import Linear

ROUNDED_TO = 64


def columns(job: Job) -> int:
    """Low-rank numbers that a token has in one decoder layer."""
    return sum(width for width, _ in _groups(job))


def added_weights(job: Job) -> int:
    """Numbers by which the weights of all decoder layers grow."""
    return job.shape.layers * sum(width * inputs for width, inputs in _groups(job)) if job.folded else 0


def source(linear: Linear) -> tuple[str, str]:
    """What a layer reads: the same for those that share their input."""
    return linear.reads, linear.name.partition(".")[0]


def _groups(job: Job) -> list[tuple[int, int]]:
    """Of each product: its low-rank columns and its inputs."""
    ranks, sums = dict(job.adapter.low_rank), dict[tuple[str, str], int]()
    inputs = {source(linear): linear.inputs for linear in job.shape.layer_linears}
    for linear in job.shape.layer_linears:
        sums[source(linear)] = sums.get(source(linear), 0) + ranks.get(linear.name, 0)
    return [(-(-rank // ROUNDED_TO) * ROUNDED_TO, inputs[group]) for group, rank in sums.items()]
