"""Speed of reward models: `ftune rm` as it ships, with `speed` off, and TRL's RewardTrainer, on the same pairs.

    python scripts/benchmarks/reward.py --folder /dev/shm/t                      # Llama-3.2-1B's shape on one GPU
    python scripts/benchmarks/reward.py --recipe my.yaml --cpu                   # a recipe of `ftune rm`, on CPUs
    python scripts/benchmarks/reward.py --tiny                                   # a try on a CPU

Without --recipe the model has random weights, and answers are random words of log-normal length, 500 on average and
2,048 at most; LoRA of rank 16 on all linear layers, 16 pairs a step in micro-batches of 4. Tokens per second count
those of answers, not padding, by the median time of the steps behind the first ones. Each measurement is a process of
its own; results are JSON lines on stdout and in --results, and a table.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from train_parts.material import make_material
from train_parts.processes import measured
from train_parts.reward import TRL, WAYS
from train_parts.table import markdown, ratios
from train_parts.work import ALPHA, RANK, Job, Setting, folder_of

PAIRS, STEP = 4, 16
"""Of a micro-batch, and of a step."""


def write_recipe(folder: Path, longest: int) -> Path:
    """The recipe of the material in a folder."""
    recipe = {
        "type": "rm",
        "model": {"path": str(folder / "model"), "chat_template": str(folder / "end_to_end.jinja")},
        "data": {"train": str(folder / "pairs.jsonl"), "max_length": longest + 8},
        "peft": {"type": "lora", "rank": RANK, "alpha": ALPHA},
        "optim": {"learning_rate": 1e-5},
        "schedule": {"type": "constant"},
        "batch": {"micro_batch_size": PAIRS, "global_batch_size": STEP},
        "checkpoint": {"every": "never"},
    }
    path = folder / "reward.json"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    return path


def jobs_of(given: argparse.Namespace, root: Path) -> Iterator[Job]:
    """Every way, in turns."""
    recipe, name = given.recipe, "1b"
    if given.tiny:
        name = "tiny"
    if recipe is None:
        folder, (mean, longest) = folder_of(root, name), (16, 64) if given.tiny else (500, 2048)
        make_material(folder, name, rows=(given.steps + 2) * 2 * STEP, mean=mean, longest=longest)
        recipe = write_recipe(folder, longest)
    setting = Setting(f"{name if given.recipe is None else given.recipe.stem} pairs", name, pairs=True)
    for _ in range(given.rounds):
        for way in given.ways:
            yield Job(way, setting, str(recipe.resolve()), given.steps, given.steps // 3, 0, 0)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the model and pairs; kept. By default a temporary one")
    parser.add_argument("--results", type=Path, help="a file that JSON lines are added to")
    parser.add_argument("--recipe", type=Path, help="of `ftune rm`, whose model is a folder or on the hub")
    parser.add_argument("--ways", nargs="*", metavar="WAY", default=[TRL, *WAYS], help="; ".join([TRL, *WAYS]))
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one measurement")
    parser.add_argument(
        "--cpu", action="store_true", help="the next process imports nothing beside one that is measured"
    )
    parser.add_argument("--tiny", action="store_true", help="a try on a CPU")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        jobs = jobs_of(given, given.folder or Path(temporary))
        results = measured(jobs, given.limit, given.results, ahead=not (given.cpu or given.tiny))
    print(markdown(results))
    print(ratios(results))


if __name__ == "__main__":
    main()
