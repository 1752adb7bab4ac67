"""The moments of a training step at which memory may peak."""

from ftune.plan import activations
from ftune.plan.buckets import gathered, resident_buckets, sent
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
        "workspaces": WORKSPACES,
    }


def training_phases(job: Job, beside: Parts | None = None) -> tuple[Phase, ...]:
    """Head, last layer, first layer, embeddings and step, with what else stands `beside`."""
    always = (resident(job), beside or {})
    kept = activations.inputs(job) if job.checkpointing else activations.saved(job)
    shape, trained = job.shape, states(job)
    in_buckets = resident_buckets(job) > 0
    gradients = 0 if in_buckets else trained.gradients
    earlier = gradients if job.accumulation > 1 else 0
    missing = shape.layer_parameters + (0 if shape.tied else shape.embedding_parameters)
    above = gradients - gradients * missing // shape.parameters
    forward = {"weight copies": copies(job), "gathered weights": gathered(job)}
    layer = activations.saved_layer(job)
    last = {
        "activations": kept + (layer if job.checkpointing else 0),
        "in passing": activations.passing(job) + sent(job),
        "gradients": max(earlier, kept_after(job)),
    }
    head = {
        "activations": kept + activations.last_norm(job),
        "logits": head_bytes(job),
        "gradients": earlier,
    }
    first = {
        "activations": layer,
        "in passing": activations.passing(job) + sent(job),
        "gradients": max(earlier, above),
    }
    return (
        phase("head", *always, forward, head),
        phase("last layer", *always, forward, last),
        phase("first layer", *always, {"gathered weights": gathered(job)}, first),
        phase("embeddings", *always, {"gradients": gradients, "in passing": _embedding(job)}),
        phase("optimizer step", *always, {"gradients": gradients, "in passing": _stepping(job)}),
    )


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
