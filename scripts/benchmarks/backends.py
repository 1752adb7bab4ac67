"""Full fine-tuning of a 1B Llama on every backend: speed, scaling, memory beside the arithmetic, losses, whole results.

    python scripts/benchmarks/backends.py --folder /dev/shm/b --results r.jsonl --gpus 2       # 1 GPU and 2 GPUs
    python scripts/benchmarks/backends.py --folder /dev/shm/b --results r.jsonl --gpus 2,4,8 --budget 3000
    python scripts/benchmarks/backends.py --folder /tmp/k --results k.jsonl --gpus 2 --kill    # killed and resumed
    python scripts/benchmarks/backends.py --folder /tmp/t --results t.jsonl --gpus 2 --tiny    # a try on a CPU
    python scripts/benchmarks/backends.py --results r.jsonl --table

The model has the shape of Llama-3.2-1B and random weights, written once to --folder (2.5 GB; each result takes 5 GB
more for a while, a checkpoint 15 GB). Each setting is a run of `ftune sft` as a user starts it, in bf16, on rows of
2,048 tokens, without activation checkpointing. Tokens per second are the median over the steps after the first six;
scaling is over one process with the same micro-batch (weak scaling). Losses are compared over the first ten steps with
those of one process that sees as many rows a step, by accumulation: the largest relative difference. The result is
whole when it has all tensors of the model it began with, in shape, finite, and none as before.

Memory is the highest of all processes, of what PyTorch has handed out. Beside it: the state as `bytes_per_parameter`
has it, and that with activations, for which what a single process has beyond its 16 bytes is taken. With autocast that
holds bf16 copies of the weights too (2 bytes), which ZeRO has not; DDP has buckets for gradients beyond it (4 bytes).

A result is a JSON line; a setting that has one is not run again, unless it failed and --retry is given. One that fails
or takes longer than --limit is recorded with its last error, and the others go on. After --budget seconds none starts,
and 30 s later none goes on.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from backends_parts.kills import CASES, EVERY, STEPS, kill_each
from backends_parts.material import LARGE, MIDDLE, TINY, Size, make_material, write_recipe
from backends_parts.measuring import measure
from backends_parts.results import Result, kept, tell
from backends_parts.settings import SETTINGS, Setting
from backends_parts.table import markdown

OVERTIME_S = 30.0
"""How long a run that started within the budget may last beyond it."""

KILLED = ("ddp", "fsdp")
"""Backends of the part in which processes are killed."""


def plan(settings: Sequence[str], gpus: Sequence[int], done: set[tuple[str, int]]) -> list[tuple[Setting, int]]:
    """What is to be run, in order: all settings but those with results, each with all numbers of GPUs."""
    known = {setting.name: setting for setting in SETTINGS}
    wanted = [known[name] for name in settings] if settings else SETTINGS
    pairs = [
        (setting, count) for setting in wanted for count in ([1] if setting.name == "single" else gpus) if count > 0
    ]
    return [(setting, count) for setting, count in pairs if (setting.name, count) not in done]


def key(result: Result) -> tuple[str, int]:
    """Which setting a result is of, with how many GPUs or with the rows of how many."""
    return str(result["setting"]), int(result.get("rows_of") or result["gpus"])


def read(path: Path, part: str) -> list[Result]:
    """The results of a part in a file, the last of each setting."""
    found = [result for result in kept(path) if result.get("part", "setting") == part]
    return found if part == "kill" else list({key(result): result for result in found}.values())


def settings_part(given: argparse.Namespace, size: Size, words: list[str], until: float) -> None:
    """Measure one setting after the other."""
    make_material(given.folder, size, given.steps * size.micro * max(given.gpus))
    recipe = write_recipe(given.folder, size, given.steps, given.dtype, "never")
    before = read(given.results, "setting")
    done = {key(result) for result in before if "error" not in result or not given.retry}
    for setting, gpus in plan(given.settings, given.gpus, done):
        left = until - time.monotonic()
        if left <= 0:
            print(f"no time left for {setting.name} on {gpus}", flush=True)
            continue
        limit_s = min(given.limit, left + OVERTIME_S)
        try:
            drive = given.drive or given.folder / "drive"
            found = measure(setting, gpus, recipe, words, drive, micro=size.micro, steps=given.steps, limit_s=limit_s)
        except Exception as error:  # whatever one left behind, the others are measured
            found = {"setting": setting.name, "gpus": gpus, "error": f"not measured: {error!r}"}
        tell({**found, "micro_batch": size.micro, "length": size.length}, given.results)


def kills_part(given: argparse.Namespace, size: Size, words: list[str]) -> None:
    """What becomes of runs that are killed or stopped."""
    make_material(given.folder, size, STEPS * size.micro * max(given.gpus))
    recipe = write_recipe(given.folder, size, STEPS, given.dtype, EVERY)
    keep = partial(tell, path=given.results)
    kill_each(KILLED, max(given.gpus), given.folder, recipe, words, given.limit, CASES, keep)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(setting.name for setting in SETTINGS)
    parser.add_argument("settings", nargs="*", help=f"all by default: {names}")
    parser.add_argument("--folder", type=Path, help="where the model lies, or is made, and where runs go")
    parser.add_argument("--drive", type=Path, help="for what is offloaded to NVMe; in --folder by default")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; appended to")
    parser.add_argument("--gpus", type=lambda text: [int(part) for part in text.split(",")], default=[2])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--micro", type=int, help="rows of a micro-batch")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--device", default="auto", help="of the recipe's backend")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds that a run may take")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no setting starts")
    parser.add_argument("--retry", action="store_true", help="run settings again that failed")
    parser.add_argument("--kill", action="store_true", help="instead: kill, stop and resume runs of a 100M model")
    parser.add_argument("--tiny", action="store_true", help="a model of a try-out size")
    parser.add_argument("--table", action="store_true", help="print the table of --results and stop")
    given = parser.parse_args()
    unknown = set(given.settings) - {setting.name for setting in SETTINGS}
    if unknown:
        parser.error(f"unknown settings: {', '.join(sorted(unknown))}; there are {names}")
    if not (given.table or given.folder):
        parser.error("--folder is needed")
    return given


def main() -> None:
    """Measure, and print the table."""
    given, started = arguments(), time.monotonic()
    if given.table:
        print(markdown(read(given.results, "setting")))
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and no run is left behind
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    size = TINY if given.tiny else MIDDLE if given.kill else LARGE
    size = replace(size, micro=given.micro or size.micro)
    words = [f"backend.device={given.device}"]
    if given.kill:
        kills_part(given, size, words)
        return
    settings_part(given, size, words, started + given.budget)
    print(markdown(read(given.results, "setting")))


if __name__ == "__main__":
    main()
