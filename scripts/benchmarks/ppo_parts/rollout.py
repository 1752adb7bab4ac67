"""Rollout engines on the same prompts: tokens per second, and whether they draw from the policy."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ppo_parts.work import (
    PAD_ID,
    STOP_ID,
    Result,
    Work,
    attempts,
    device_name,
    gib,
    number_format,
    random_prompts,
    stir,
    synchronised,
    told,
    tuned_model,
)

if TYPE_CHECKING:
    from ftune.ppo.rollout.base import Engine, Policy, Rollout

ENGINES: dict[str, dict[str, object]] = {
    "generate": {"type": "generate", "micro_batch_size": 128},
    "graph shared": {"type": "graph", "weights": "shared"},
    "graph merged": {"type": "graph", "weights": "merged"},
}
COMPARED = 32
"""Completions whose log-probabilities are compared with the model's own."""


def rollout_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """Every engine on the same prompts."""
    from ftune.ppo.rollout.base import Policy

    model = tuned_model(work)
    autocast = number_format() if device_name() == "cuda" else None
    policy = Policy(model, PAD_ID, (STOP_ID,), autocast)
    results = [told({"part": "rollout", "case": "loaded", "gib": gib("memory_allocated")})]
    for name in given.engines:
        if given.check:
            results += attempts(f"check {name}", partial(checked, name, policy, work))
        results += attempts(f"rollout {name}", partial(measured, name, policy, work))
        if given.profile:
            attempts(f"profile {name}", partial(profiled, name, policy, work))
    return results


def engine_of(name: str, policy: "Policy") -> "Engine":
    """An open engine."""
    from ftune.core.variants import variants_of
    from ftune.ppo.rollout.base import RolloutEngine

    settings = ENGINES[name]
    engine: Engine = variants_of(RolloutEngine)[str(settings["type"])].model_validate(settings).open(policy)
    return engine


def measured(name: str, policy: "Policy", work: Work) -> Result:
    """Rounds as in training: the policy has changed and the engine has rested before each."""
    import torch

    from ftune.ppo.rollout.base import Sampling

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = synchronised()
    engine, prompts = engine_of(name, policy), random_prompts(work)
    opened = synchronised() - started
    seconds, rates = [], []
    for seed in range(work.rounds):
        engine.policy_changed()
        started = synchronised()
        made = engine.generate(prompts, Sampling(work.new_tokens), seed)
        seconds.append(synchronised() - started)
        rates.append(sum(len(rollout.token_ids) for rollout in made) / seconds[-1])
        engine.rest()
    return {
        "part": "rollout",
        "case": name,
        "tokens_per_s": round(max(rates[1:])),
        "seconds": [round(each, 3) for each in seconds],
        "open_s": round(opened, 2),
        "peak_gib": gib("max_memory_allocated"),
        "rest_gib": gib("memory_allocated"),
    }


def checked(name: str, policy: "Policy", work: Work) -> Result:
    """Whether the engine draws from the policy: its log-probabilities against the model's, on what it drew itself.

    Prompts are of all lengths. `gap` is the mean distance of a token's log-probability, `gap_without_adapters` the same
    to the base: the first must be many times smaller. `gap_after_change` follows a change of the adapters without a
    rest, `gap_after_rest` one with a rest. `stops` says that completions end at the first of many stop tokens.
    """
    from dataclasses import replace

    from ftune.ppo.rollout.base import Sampling

    prompts, sampling = random_prompts(work, ragged=True), Sampling(min(work.new_tokens, 48))
    engine = engine_of(name, policy)
    result: Result = {"part": "check", "case": name, **proof(name, policy)}
    made = engine.generate(prompts, sampling, 5)
    result["gap"], result["largest_gap"] = gap(policy, made)
    with policy.model.disable_adapter():
        result["gap_without_adapters"] = gap(policy, made)[0]
    result["same_seed_same_tokens"] = [each.token_ids for each in engine.generate(prompts, sampling, 5)] == [
        each.token_ids for each in made
    ]
    for key, rests in (("gap_after_change", False), ("gap_after_rest", True)):
        stir(policy.model, 0.01)
        if rests:
            engine.rest()
        engine.policy_changed()
        result[key] = gap(policy, engine.generate(prompts, sampling, 6))[0]
    engine.rest()
    many = replace(policy, stop_ids=tuple(range(work.model["vocab_size"] // 16)))
    made = engine_of(name, many).generate(prompts, sampling, 7)
    result["stops"] = all(
        rollout.stopped == (rollout.token_ids[-1] in many.stop_ids)
        and not set(rollout.token_ids[:-1]) & set(many.stop_ids)
        for rollout in made
    )
    result["mean_length_with_stops"] = round(sum(len(each.token_ids) for each in made) / len(made), 1)
    return result


def proof(name: str, policy: "Policy") -> Result:
    """Relative difference of the logits of graph engines to the model's own."""
    settings = ENGINES[name]
    if settings["type"] != "graph":
        return {}
    from ftune.ppo.rollout.graphs.attention import flash_serves
    from ftune.ppo.rollout.graphs.layout import read_layout
    from ftune.ppo.rollout.graphs.proof import difference

    layout = read_layout(policy)
    return {
        "logits_difference": difference(policy, layout, settings["weights"]),  # type: ignore[arg-type]
        "flash": flash_serves(layout.device, layout.dtype, layout.shape.head_dim),
    }


def gap(policy: "Policy", made: Sequence["Rollout"]) -> tuple[float, float]:
    """Mean and largest distance of an engine's log-probabilities to those of the model's own forward."""
    import torch

    device = policy.model.device
    distances = []
    for rollout in made[:COMPARED]:
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids], device=device)
        with torch.no_grad(), torch.autocast(device.type, policy.autocast, enabled=policy.autocast is not None):
            logits = policy.model(input_ids=ids, use_cache=False).logits
        logprobs = logits[0, len(rollout.prompt_ids) - 1 : -1].float().log_softmax(-1)
        chosen = logprobs.gather(1, ids[0, len(rollout.prompt_ids) :, None])[:, 0]
        distances.append((chosen - torch.tensor(rollout.logprobs, device=device)).abs())
    every = torch.cat(distances)
    return round(float(every.mean()), 5), round(float(every.max()), 5)


def profiled(name: str, policy: "Policy", work: Work) -> Result:
    """Where the device's time goes: a table on stderr."""
    from torch.profiler import ProfilerActivity, profile

    from ftune.ppo.rollout.base import Sampling

    engine, prompts = engine_of(name, policy), random_prompts(work)
    engine.generate(prompts, Sampling(work.new_tokens), 0)
    activity = ProfilerActivity.CUDA if device_name() == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        engine.generate(prompts, Sampling(work.new_tokens), 1)
    order = f"self_{device_name()}_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=70), file=sys.stderr)
    engine.rest()
    return {"part": "profile", "case": name}
