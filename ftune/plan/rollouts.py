"""PPO: what stands beside the policy, and the moments that training alone does not have."""

from dataclasses import replace

from ftune.plan import activations
from ftune.plan.job import Job, Roles
from ftune.plan.logits import chunk_rows
from ftune.plan.phase import Parts, Phase, phase
from ftune.plan.training import resident, training_phases
from ftune.plan.weights import copies, stored_bytes

FP32 = 4
PLACES = 128
"""The graph engine's cache is a multiple of this long."""

PROMPT_TOKENS = 16_384
"""Prompt tokens that it reads at once."""

DRAWN = 6
"""Vectors of the vocabulary's width that a row's token is drawn from, as the graph engine itself reckons."""

JUDGED = 4
"""Times `ppo.micro_batch_size` that completions are judged at once, without gradients."""


def roles_beside(job: Job) -> Parts:
    """Weights and states of the other roles, on one rank.

    A value of its own trains: 16 bytes a parameter, of which 4 come and go with its gradients. References and reward
    models are frozen; adapters on the policy's base are fp32 (16 bit where FSDP2 computes with them).
    """
    roles = _roles(job)
    ways = job.spread.world if job.split else 1
    frozen = {"none": 0, "base": 0, "adapter": FP32 * job.adapter.parameters, "copy": job.width * job.shape.parameters}
    whole = sum(stored_bytes(shape, job.dtype, "none", double_quant=True) for shape in roles.reward_models)
    return {
        "value": 3 * FP32 * _of_value(job) // ways,
        "reference": frozen[roles.reference] // ways,
        "reward models": FP32 * roles.reward_adapters // ways + whole,
    }


def ppo_phases(job: Job) -> tuple[Phase, ...]:
    """Rollout, judging, and the moments of an update."""
    beside = roles_beside(job)
    judged = replace(job, micro_batch_size=JUDGED * job.micro_batch_size)
    scoring = {
        "in passing": activations.working(judged),
        "logits": chunk_rows(judged) * job.shape.vocab * job.width,
    }
    always = (resident(job), beside, {"gathered weights": _played_with(job)})
    roles = _roles(job)
    at_first = 0 if roles.engine == "graph" else roles.new_tokens  # `generate` lets its cache grow
    decoding = {"rollout weights": _decode_weights(job)}
    prompts = {"KV cache": cache_bytes(job, unmade=at_first), "in passing": _reading(job)}
    tokens = {"KV cache": cache_bytes(job), "in passing": _drawing(job)}
    return (
        phase("rollout: prompts", *always, decoding, prompts),
        phase("rollout: tokens", *always, decoding, tokens),
        phase("judging", *always, scoring),
        *_update(job, beside),
    )


def cache_bytes(job: Job, *, unmade: int = 0) -> int:
    """Keys and values of each layer for all places of the rows that are completed at once, but for those `unmade`."""
    roles = _roles(job)
    if roles.engine == "vllm":
        return 0
    places = roles.prompt_tokens + roles.new_tokens - unmade
    if roles.engine == "graph":
        places = -(-places // PLACES) * PLACES
    return 2 * job.shape.layers * job.shape.kv_width * job.width * places * roles.at_once


def _update(job: Job, beside: Parts) -> tuple[Phase, ...]:
    """As in training; a value with a pass of its own keeps its activations too, and the policy's are there meanwhile.

    The value's backward pass comes first: when the policy's logits are made again, its activations are gone and its
    gradients there.
    """
    moments = training_phases(job, beside)
    if _roles(job).value == "trunk":
        return moments
    kept = activations.inputs(job) if job.checkpointing else activations.saved(job)
    own = _of_value(job) // (job.spread.world if job.split else 1)
    gradients = {"gradients": FP32 * own}
    copied = copies(job) if _roles(job).value == "copy" else 0
    both = {"activations": kept, "weight copies": copied, "gradients": FP32 * own if job.accumulation > 1 else 0}
    more: dict[str, Parts] = {
        "last layer": {**both, "weight copies": 0 if job.checkpointing else copied},
        "forward": both,
    }
    return tuple(phase(moment.name, moment.parts, more.get(moment.name, gradients)) for moment in moments)


def _played_with(job: Job) -> int:
    """Weights that FSDP2 gathers for a whole round of completions and their judging: those of all copies."""
    if not job.split:
        return 0
    roles = _roles(job)
    value = _of_value(job) if roles.value != "trunk" else 0
    copied = job.shape.parameters if roles.reference == "copy" else 0
    return job.width * (job.shape.parameters + value + copied)


def _of_value(job: Job) -> int:
    """Parameters that the value has for itself."""
    kinds = {"trunk": job.shape.hidden, "adapter": job.adapter.parameters, "copy": _backbone(job)}
    return kinds[_roles(job).value]


def _reading(job: Job) -> int:
    """The prompts' pass through a layer: the block's vectors, and fp32 copies where an adapter is beside it."""
    roles, shape = _roles(job), job.shape
    if roles.engine == "vllm":
        return 0
    tokens = roles.prompt_tokens * roles.at_once
    if roles.engine == "graph":
        tokens = min(tokens, max(PROMPT_TOKENS, roles.prompt_tokens))
    wide = 4 if roles.engine == "graph" else 5
    noise = FP32 * shape.vocab * roles.at_once
    return noise + tokens * job.width * (wide * shape.ffn + 2 * shape.hidden)


def _drawing(job: Job) -> int:
    """What a token is drawn from: noise, logits, and what is made of them, in fp32."""
    roles = _roles(job)
    return 0 if roles.engine == "vllm" else DRAWN * FP32 * job.shape.vocab * roles.at_once


def _decode_weights(job: Job) -> int:
    """The graph engine's copy of the weights with the adapters added, or of the adapters alone."""
    roles, shape = _roles(job), job.shape
    if roles.engine != "graph":
        return 0
    if roles.merged:
        return job.width * (shape.layers * shape.layer_weights + (shape.head.weights if job.full else 0))
    return job.width * job.adapter.parameters


def _backbone(job: Job) -> int:
    return job.shape.parameters - job.shape.head_parameters


def _roles(job: Job) -> Roles:
    return job.roles or Roles()
