"""The peak of GPU memory that runs have, beside what `ftune plan` says of their recipes.

    python scripts/benchmarks/plan.py --folder /dev/shm/p --results r.jsonl              # one GPU of 80 GB
    python scripts/benchmarks/plan.py --folder /dev/shm/p --results r.jsonl --gpus 2     # two GPUs
    python scripts/benchmarks/plan.py --folder /dev/shm/p --results r.jsonl 'fast *'     # some of the settings
    python scripts/benchmarks/plan.py --folder /tmp/t --results t.jsonl --tiny           # a try on a CPU
    python scripts/benchmarks/plan.py --results r.jsonl --table                          # from what was measured

The models have the shapes of Llama-3.2-1B and Llama-3.1-8B and random weights, written to --folder (2.5 and 16 GB).
Rows have exactly the number of tokens that is said. Each setting is a run of `ftune sft`, `ftune rm` or `ftune ppo` for
two or three steps, by the code of the command, but nothing is saved. Its processes are its own. Measured is the highest
`torch.cuda.max_memory_allocated` of all ranks after the model was loaded; what was there at that moment is told too.

A result is a JSON line with the recipe and the model's configuration, from which --table computes what `ftune plan`
says: with another version of it, measurements are good again. A setting that has a result is not run again, unless it
failed and --retry is given; a GPU without enough memory is a result. No setting starts after --budget seconds.
"""

import argparse
import json
import os
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends_parts.command_line import parsed, parser_of
from backends_parts.results import kept
from plan_parts.material import write_model, write_rows
from plan_parts.processes import readings, starter
from plan_parts.settings import SETTINGS, SHAPES, TINY, Setting
from plan_parts.table import Result, markdown

from ftune.launch.place import free_port

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def read(path: Path) -> list[Result]:
    """The results in a file, the last of each setting."""
    return list({result["setting"]: result for result in kept(path)}.values())


def chosen(given: argparse.Namespace) -> list[Setting]:
    """The settings to be run, in order: those that are asked for and have no result yet."""
    counts = [result["setting"] for result in read(given.results) if counts_as_result(result) or not given.retry]
    wanted = [
        setting
        for setting in SETTINGS
        if setting.gpus == given.gpus
        and setting.name not in counts
        and any(fnmatch(setting.name, pattern) for pattern in given.settings)
    ]
    return [setting.tiny() for setting in wanted] if given.tiny else wanted


def counts_as_result(result: Result) -> bool:
    """Whether it says something of the memory: a failure for want of it does."""
    return "error" not in result or bool(result.get("out_of_memory"))


def merged(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One reading of all ranks: the most of each number, and the first error."""
    found: dict[str, Any] = {}
    for rank in ranks:
        for key, value in rank.items():
            numbers = key in ("loaded", "loading_peak", "peak", "reserved", "seconds", "loading_s") and key in found
            if numbers and value is not None:
                value = max(value, found[key])
            found[key] = value if numbers else found.get(key, value)
    return found


class Bench:
    """The material, which is made while the first settings run, and the settings."""

    def __init__(self, given: argparse.Namespace, context: "ForkServerContext | SpawnContext") -> None:
        self.given, self.context = given, context
        self.shapes = TINY if given.tiny else SHAPES
        self.makers: dict[str, Any] = {}

    def prepare(self, settings: list[Setting]) -> None:
        """Write rows, and begin to write the models."""
        folder = self.given.folder
        for name in ("runs", "recipes", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for shape in dict.fromkeys(setting.shape for setting in settings):
            maker = self.context.Process(target=write_model, args=(folder / shape, self.shapes[shape]))
            maker.start()
            self.makers[shape] = maker
        vocabulary = min(shape["vocab_size"] for shape in self.shapes.values())
        write_rows(folder, settings, vocabulary)

    def run(self, setting: Setting, limit_s: float) -> Result:
        """The result of a setting."""
        self.makers[setting.shape].join()
        recipe = setting.in_folder(self.given.folder)
        file = self.given.folder / "recipes" / f"{setting.name}.json"
        file.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
        started = time.monotonic()
        log = self.given.folder / "logs" / setting.name.replace(" ", "-")
        ranks = readings(self.context, file, log, setting.gpus, free_port(), limit_s)
        batch = recipe["ppo" if setting.kind == "ppo" else "batch"]
        return {
            "setting": setting.name,
            "gpus": setting.gpus,
            "shape": setting.shape,
            "rows": batch["micro_batch_size"],
            "length": setting.length,
            **merged(ranks),
            "all_s": round(time.monotonic() - started, 1),
            "recipe": recipe,
            "config": self.shapes[setting.shape],
        }


def measure(given: argparse.Namespace) -> None:
    """Run one setting after the other, and keep each result at once."""
    until = time.monotonic() + given.budget
    settings = chosen(given)
    bench = Bench(given, starter())
    bench.prepare(settings)
    for setting in settings:
        left = until - time.monotonic()
        if left <= 0:
            print(f"no time left for {setting.name}", flush=True)
            continue
        result = bench.run(setting, min(given.limit, left))
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        shown = {key: value for key, value in result.items() if key not in ("recipe", "config")}
        print(json.dumps(shown), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    names = [setting.name for setting in SETTINGS]
    parser = parser_of(__doc__, names, limit_s=90.0)
    parser.add_argument("--gpus", type=int, choices=(1, 2), default=1)
    parser.add_argument("--no-table", action="store_true", help="measure, and print no table")
    return parsed(parser, names)


def main() -> None:
    """Measure, and print the table."""
    given = arguments()
    if not given.table:
        os.environ.setdefault("FTUNE_CACHE", str(given.folder.resolve() / "cache"))
        measure(given)
    if not given.no_table:
        print(markdown(read(given.results)))


if __name__ == "__main__":
    main()
