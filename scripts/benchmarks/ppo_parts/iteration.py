"""Iterations of `ftune ppo` itself: a recipe, a model on disk, prompts and a reward adapter on the shared base."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ppo_parts.work import (
    Result,
    Work,
    attempts,
    base_model,
    gib,
    lora_settings,
    random_prompts,
    word_tokenizer,
)

VALUES = ("trunk", "adapter")
"""Where the value comes from; TRL trains a model of its own for it."""

ITERATIONS = 5
UNSETTLED = 2
"""The first iterations, which capture graphs and warm up."""


def iteration_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """A run with each kind of value."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(work, folder)
        for value in VALUES:
            results += attempts(f"ftune, value {value}", partial(iterations, work, folder, value, given))
    return results


def make_inputs(work: Work, folder: Path) -> None:
    """The base, its tokenizer, a reward adapter with its facts, and prompts."""
    from peft import get_peft_model

    from ftune.models.fingerprint import base_fingerprint
    from ftune.models.reward_facts import RewardFacts

    base = base_model(work)
    base.save_pretrained(folder / "base")
    tokenizer = word_tokenizer(work)
    tokenizer.save_pretrained(folder / "base")
    del base
    scorer = base_model(work, "AutoModelForSequenceClassification", num_labels=1)
    settings = lora_settings("SEQ_CLS")
    get_peft_model(scorer, settings).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    located = str(folder / "base")
    RewardFacts("scalar", located, base_fingerprint(located)).write(folder / "reward")
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for prompt in random_prompts(work):
            file.write(json.dumps({"prompt": tokenizer.decode(prompt), "completion": " w5"}) + "\n")


def iterations(work: Work, folder: Path, value: str, given: argparse.Namespace) -> Result:
    """One optimiser step an iteration, as in TRL's run; medians of all iterations but the first two."""
    import torch

    from ftune.recipes.base import RunOptions
    from ftune.recipes.ppo import PpoRecipe
    from ftune.report.events import read_events

    run = folder / f"run-{value}"
    made = recipe_of(folder, folder / "base", work, value, given.engine, given.micro_batch_size)
    recipe = PpoRecipe.model_validate({**made, "output_dir": str(run)})
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    recipe.execute(RunOptions(text="", command="ftune ppo", overwrite=True))
    events = list(read_events(run / "events.jsonl"))
    steps = [event for event in events if event["kind"] == "step"]
    loaded = [event["loaded_gib"] for event in events if event["kind"] == "model"]
    settled = steps[UNSETTLED:]
    parts = parts_of(steps)
    tokens = work.prompts * work.prompt_tokens + settled[-1]["tokens"]
    return {
        "part": "iteration",
        "case": f"ftune, {value}",
        "iteration_s": [round(sum(step["seconds"].values()), 3) for step in steps],
        "parts_s": parts,
        "tokens_per_s": round(statistics.median(step["rollout_tokens_per_s"] for step in settled)),
        "update_tokens_per_s": round(tokens / parts["update"]),
        "logprob_gap": settled[-1].get("logprob_gap"),
        "loaded_gib": None if not loaded or loaded[0] is None else round(loaded[0], 2),
        "peak_gib": gib("max_memory_allocated"),
    }


def recipe_of(folder: Path, base: Path, work: Work, value: str, engine: str, micro_batch_size: int) -> dict[str, Any]:
    """One optimiser step an iteration; reward adapter and prompts lie in `folder`."""
    return {
        "type": "ppo",
        "model": {"path": str(base)},
        "data": {"train": str(folder / "prompts.jsonl")},
        "rewards": [{"type": "model", "path": str(folder / "reward"), "share_base": "always"}],
        "peft": {"type": "lora", "rank": 16, "alpha": 32},
        "value": {"type": value},
        "rollout": {"type": engine, "batch_size": work.prompts, "max_new_tokens": work.new_tokens},
        "ppo": {
            "epochs": 1,
            "minibatch_size": work.prompts,
            "micro_batch_size": min(micro_batch_size, work.prompts),
        },
        "guard": {"target_kl": None, "max_kl": None},
        "schedule": {"iterations": ITERATIONS},
        "checkpoint": {"every": "never"},
        "log": {"samples_every": "never"},
    }


def parts_of(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The median seconds of each part of an iteration, from the events of all of them."""
    settled = steps[UNSETTLED:]
    names = settled[0]["seconds"] if settled else ()
    return {name: round(statistics.median(step["seconds"][name] for step in settled), 3) for name in names}
