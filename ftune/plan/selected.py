"""What selective checkpointing keeps of a decoder layer beside its input (`ftune.speed.selective`)."""

from ftune.plan import folded
from ftune.plan.job import Job
from ftune.plan.shape import Linear

FP32 = 4


def selected(job: Job) -> dict[str, int]:
    """Bytes of a token in one layer, by what makes them: each product ahead of attention, and attention itself.

    Products are named as in the model, adapters' low-rank ones behind them; where adapters are folded in, layers that
    are one product stand together. Beside its result attention keeps the logarithm of each sum.
    """
    found: dict[str, int] = {}
    ahead = {linear.name: linear for linear in ahead_of_attention(job)}
    for group in folded.groups(job) if job.folded else ():
        if group.layers[0].name in ahead:
            names = [layer.name for layer in group.layers]
            found[" + ".join(names)] = job.width * (group.outputs + group.low)
            ahead = {name: linear for name, linear in ahead.items() if name not in names}
    ranks = dict(job.adapter.low_rank)
    for name, linear in ahead.items():
        found[name] = job.width * linear.outputs
        if name in ranks:
            found[f"{name}, adapter"] = job.width * (ranks[name] + linear.outputs)
    return found | {"attention": job.width * job.shape.query_width + FP32 * job.shape.heads}


def kept(job: Job) -> int:
    """Bytes of a micro-batch in one layer."""
    return job.batch_tokens * sum(selected(job).values()) if job.checkpointing == "selective" else 0


def knows_selected(job: Job) -> bool:
    """Whether that is what will be kept: the method makes nothing that is not named, and layers are plain ones."""
    adapter = job.adapter
    others = adapter.saved or adapter.saved_fp32 or adapter.passing or adapter.passing_fp32 or adapter.dense_fp32
    if others or job.dense or job.quantization == "int8":
        return False
    return job.attention != "eager" and job.shape.scores == "fused"


def ahead_of_attention(job: Job) -> list[Linear]:
    """The layers that make queries, keys and values."""
    own = {linear.name.partition(".")[0] for linear in job.shape.layer_linears if linear.reads == "attention"}
    return [
        linear
        for linear in job.shape.layer_linears
        if linear.reads == "stream" and linear.name.partition(".")[0] in own
    ]
