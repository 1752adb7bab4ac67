"""Run folders for the tests of reports, lists and charts, written by the code that real runs write them with."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftune.report.events import EventLog

COUNTS = {
    "read": 1200, "kept": 1000, "pieces": 0, "dropped": {"longer than max_length": 200}, "faults": [], "truncated": 7,
    "tokens": 80_000, "trained_tokens": 20_000, "trained_min": 4, "trained_median": 19.0, "trained_max": 60,
    "longest": 310, "longest_row": "rows.jsonl:88",
    "lengths": {"unit": "tokens", "bins": [{"low": 0, "count": 400}, {"low": 32, "count": 600}]},
}  # fmt: skip
DATA = {
    "train": {"format": "alpaca", "counts": COUNTS, "checks": {"no double BOS": True, "ids fit": False}},
    "validation": {"format": "alpaca", "counts": {"read": 50, "kept": 50, "tokens": 900, "trained_tokens": 300}},
}  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.7", "platform": "Linux", "versions": {"torch": "2.13.0"}, "git": None,
    "cpu": {"model": "A processor", "threads": 2}, "memory_gib": 23.5, "gpus": [],
}  # fmt: skip


def start_run(folder: Path, state: str, recipe: Mapping[str, Any], recipe_text: str) -> None:
    """The first files of a run."""
    folder.mkdir(parents=True)
    (folder / "ftune.json").write_text(json.dumps({"state": state}))
    (folder / "recipe.yaml").write_text(recipe_text)
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe))


def sft_run(folder: Path, *, steps: int = 60, text: str = "", learning_rate: float = 2e-4) -> Path:
    """A run with everything in it; `text` goes wherever a run can hold text of others."""
    recipe = {"type": "sft", "model": {"path": f"base{text}"}, "peft": {"type": "lora"},
              "optim": {"learning_rate": learning_rate}}  # fmt: skip
    start_run(folder, "done", recipe, f"type: sft\n# {text}\n")
    (folder / "data.json").write_text(json.dumps(DATA))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "logs").mkdir()
    (folder / "logs" / "rank0.txt").write_text(f"rows: 1\nwarning: beware of {text or 'it'}\nwarning: twice\n" * 2)
    with EventLog(folder / "events.jsonl") as log:
        log.write("start", command=f"ftune sft {text}", recipe="sft", model=f"base{text}")
        log.write("model", parameters=1000, trainable=10, dtype="bf16", device=f"GPU {text}", processes=2)
        log.write("predicted", memory_gib=2.0, tokens_per_s=100.0)
        for step in range(1, steps + 1):
            loss = None if step == 7 else 2 / math.sqrt(step) + 0.2 * (step % 3)
            log.write("step", step=step, epoch=step / 30, loss=loss, token_accuracy=step / (step + 9), tokens=100,
                      learning_rate=learning_rate / step, grad_norm=1.0 + step % 5, tokens_per_s=120.0 + step % 7,
                      memory_gib=1.5)  # fmt: skip
            if step % 20 == 0:
                log.write("eval", step=step, loss=1.9 / math.sqrt(step), token_accuracy=0.7)
        log.write("skipped", step=7, why="loss nan", rows=[f"rows.jsonl:3{text}"])
        log.write("end", status="done", seconds=9.5)
    return evaluated(folder, text)


def evaluated(folder: Path, text: str = "") -> Path:
    """What `ftune eval` leaves: eval.json and samples.jsonl."""
    (folder / "eval").mkdir()
    rouge = {"before": 0.21, "after": 0.4, "difference": 0.19, "low": 0.17, "high": 0.21, "better": 71, "worse": 20,
             "missing": 0, "higher_is_better": True}  # fmt: skip
    metrics = {
        "rouge1": rouge,
        "perplexity": {"before": 20.0, "after": 25.0, "low": 1.0, "high": 9.0, "higher_is_better": False},
        f"chrf{text}": {
            "before": 30.0,
            "after": 30.4,
            "difference": 0.4,
            "low": -0.5,
            "high": 1.2,
            "signature": "nrefs:1|case:mixed",
        },
        "length": {
            "before": 12.0,
            "after": 20.0,
            "low": 7.0,
            "high": 9.0,
            "kind": {"better": "neither"},
            "better": None,
        },
        "ter": {"before": 80.0, "after": 60.0, "low": -30.0, "high": -10.0, "kind": {"better": "lower"}},
    }
    (folder / "eval" / "eval.json").write_text(
        json.dumps({"rows": 100, "source": f"test{text}.jsonl", "metrics": metrics})
    )
    samples = [
        {"row": f"test.jsonl:{number}", "prompt": f"What is {number}? {text}", "reference": f"It is {number} of ten.",
         "completions": {f"base{text}": f"I do not know, {text}.", "tuned": f"It is {number} of twenty."},
         "scores": {"tuned": {"rouge1": 0.75}}}
        for number in range(40)
    ]  # fmt: skip
    (folder / "eval" / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    return folder


def ppo_run(folder: Path) -> Path:
    """A run of PPO that keeps an earlier iteration as its result."""
    start_run(folder, "done", {"type": "ppo"}, "type: ppo\n")
    (folder / "data.json").write_text(json.dumps({"train": {"format": ["prompt"], "read": 24, "prompts": 24}}))
    with EventLog(folder / "events.jsonl") as log:
        log.write("start", command="ftune ppo ppo.yaml", recipe="ppo", model="base")
        log.write("model", dtype="fp32", device="cpu", trainable={"policy": 100, "value": 5})
        for step in range(13):
            if step % 4 == 0:
                log.write("eval", step=step, score=[0.1, 0.9, 0.8, 0.7][step // 4], kl=step / 2, stopped=1.0)
            if step:
                log.write("step", step=step, score=step / 10, kl=step / 3, entropy=1.0, clip_fraction=0.1,
                          stopped_early=step == 3, policy_loss=-0.01, value_loss=0.1, tokens_per_s=8.0,
                          seconds={"rollout": 3.0, "update": 1.0}, memory_gib=1.0)  # fmt: skip
        log.write("kept", step=4)
    rows = [
        {"iteration": iteration, "when": "held-out", "row": "p.jsonl:1", "prompt": "What of the sea?",
         "completion": f"The sea is {word} today.", "score": score, "kl": 0.0}
        for iteration, word, score in ((0, "grim", -1.0), (4, "fair", 0.5), (12, "lovely", 1.0))
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def killed_run(folder: Path) -> Path:
    """A run that was killed after its first step, in the middle of a line."""
    start_run(folder, "running", {"type": "sft"}, "type: sft\n")
    with EventLog(folder / "events.jsonl") as log:
        log.write("start", command="ftune sft x.yaml", recipe="sft", model="base")
        log.write("step", step=1, loss=2.5)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    return folder
