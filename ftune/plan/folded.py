"""LoRA folded into the products of its layers (`ftune.speed.folded`): columns [x, x A^T] against [W, s B].

Layers that read one input, as those of queries, keys and values do, are one product then. Its low-rank columns are as
many as the sum of their ranks, on a GPU filled up to what matrix units like.
"""

from dataclasses import dataclass

from ftune.plan.job import Job
from ftune.plan.shape import Linear

LOW_STEP = 64
"""A GPU's products are fastest where their inner dimension is a multiple of this."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that are one product."""

    layers: tuple[Linear, ...]
    low: int
    """Low-rank columns, filling included."""

    @property
    def inputs(self) -> int:
        """Numbers that a token has for it."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Numbers that it makes of a token."""
        return sum(layer.outputs for layer in self.layers)


def source(linear: Linear) -> tuple[str, str]:
    """What a layer reads: the same for those that share their input."""
    return linear.reads, linear.name.partition(".")[0]


def groups(job: Job) -> list[Group]:
    """Of one decoder layer; none where nothing is folded."""
    if not job.folded:
        return []
    ranks, step = dict(job.adapter.low_rank), LOW_STEP if job.on_gpu else 1
    found = dict[tuple[str, str], list[Linear]]()
    for linear in job.shape.layer_linears:
        if linear.name in ranks:
            found.setdefault(source(linear), []).append(linear)
    sums = {reads: sum(ranks[layer.name] for layer in layers) for reads, layers in found.items()}
    return [Group(tuple(layers), -(-sums[reads] // step) * step) for reads, layers in found.items()]


def columns(job: Job) -> int:
    """Low-rank numbers that a token has in one decoder layer."""
    return sum(group.low for group in groups(job))


def added_weights(job: Job) -> int:
    """Numbers by which the frozen weights of all decoder layers grow."""
    return job.shape.layers * sum(group.low * group.outputs for group in groups(job))


def first_matrices(job: Job) -> int:
    """Numbers of A in all decoder layers, as they are laid together and cast for each pass."""
    return job.shape.layers * sum(group.low * group.inputs for group in groups(job))


def beside_values(job: Job) -> int:
    """What a token's values keep beside themselves: they are a part of what one product has made."""
    for group in groups(job):
        for layer in group.layers:
            if layer.name.endswith("v_proj"):
                return group.outputs - layer.outputs
    return 0


def unpacked(job: Job) -> int:
    """Bytes of the largest product's quantised weights as they are unpacked, laid together and given their columns."""
    if job.quantization == "none":
        return 0
    numbers = [group.outputs * (group.inputs + group.low) for group in groups(job)]
    return 2 * job.width * max(numbers, default=0)
