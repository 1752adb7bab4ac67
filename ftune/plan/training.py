"""The moments of a training step at which memory may peak."""

from ftune.plan import activations, selected
from ftune.plan.buckets import gathered, going_out, resident_buckets, sent
from ftune.plan.job import Job
from ftune.plan.logits import head_bytes, kept_after
from ftune.plan.overhead import WORKSPACES
from ftune.plan.phase import Parts, Phase, phase
from ftune.plan.states import states
from ftune.plan.weights import copies, frozen_bytes

FP32 = 4
SUB_GROUP = 1_000_000_000
"""Parameters that ZeRO-3 steps at once (`sub_group_size` of DeepSpeed 0.19)."""


def resident(job: Job) -> Parts:
    """What stands all the time, once the optimiser has its states."""
    kept = states(job)
    return {
        "frozen weights": frozen_bytes(job),
        "trained weights": kept.weights + kept.masters,
        "optimizer": kept.moments,
        "gradients": resident_buckets(job),
        "buckets": going_out(job),
        "workspaces": WORKSPACES,
    }


def training_phases(job: Job, beside: Parts | None = None) -> tuple[Phase, ...]:
    """Forward pass, head, last layer, first layer, embeddings and step, with what else stands `beside`.

    The forward pass is told apart where activations are checkpointed, since autocast's copies are gone after it.
    """
    chosen = selected.kept(job)
    inputs = activations.inputs(job) + chosen * job.shape.layers
    kept = inputs if job.checkpointing else activations.saved(job)
    layer, passing = activations.saved_layer(job), activations.passing(job) + sent(job)
    gradients = 0 if resident_buckets(job) else states(job).gradients
    earlier = gradients if job.accumulation > 1 else 0
    again = layer - chosen if job.checkpointing else 0
    whole = gathered(job)
    cast = copies(job) // (job.shape.layers if job.checkpointing else 1)
    moments: dict[str, Parts] = {
        "head": {
            "gathered weights": whole,
            "weight copies": cast,
            "activations": kept + activations.last_norm(job),
            "logits": head_bytes(job),
            "gradients": earlier,
        },
        "last layer": {
            "gathered weights": whole,
            "weight copies": cast,
            "activations": kept + again,
            "in passing": passing,
            "gradients": max(earlier, kept_after(job)),
        },
        "first layer": {
            "gathered weights": whole,
            "activations": layer,
            "in passing": passing,
            "gradients": max(earlier, _above_the_first(job, gradients)),
        },
        "embeddings": {"gradients": gradients, "in passing": _embedding(job)},
        "optimizer step": {"gradients": gradients, "in passing": _stepping(job)},
    }
    if job.checkpointing:
        moments["forward"] = {
            "gathered weights": whole,
            "weight copies": copies(job),
            "activations": kept + again,
            "gradients": earlier,
        }
    return tuple(phase(name, resident(job), beside or {}, parts) for name, parts in moments.items())


def _above_the_first(job: Job, gradients: int) -> int:
    """Of all gradients, those that are there when the first layer's are made."""
    shape = job.shape
    missing = shape.layer_parameters + (0 if shape.tied else shape.embedding_parameters)
    return gradients - gradients * missing // shape.parameters


def _embedding(job: Job) -> int:
    """The gradient of an embedding that trains beside the one that its tied head has given it.

    FSDP2 sums that of everything outside of layers in fp32.
    """
    if not job.full:
        return 0
    shape = job.shape
    outer = shape.parameters - shape.layers * shape.layer_parameters
    if job.split:
        return (job.width + FP32) * outer
    return job.stream_width * shape.head.weights if shape.tied else 0


def _stepping(job: Job) -> int:
    """What the optimiser makes while it steps, and ZeRO while it brings gradients to fp32.

    Fused AdamW works in place. ZeRO flattens its part of the gradients, then casts it; stage 3 does a sub-group at a
    time. Adafactor makes the update of a matrix twice.
    """
    spread = job.spread
    if spread.type == "zero" and spread.optimizer == "none":
        mine = job.trained // spread.world
        return FP32 * min(mine, SUB_GROUP) if spread.stage == 3 else (job.width + FP32) * mine
    if job.optimizer == "adafactor":
        largest = [job.shape.head.weights, *(linear.weights for linear in job.shape.layer_linears)]
        return 2 * FP32 * min(job.trained, max(largest))
    return 0
