"""How one recipe scales over the GPUs of a node: speed, memory, losses, PPO, and a rank killed in a save.

    python scripts/benchmarks/scale.py --folder /dev/shm/s --results r.jsonl --budget 540   # on all GPUs, then on fewer
    python scripts/benchmarks/scale.py --folder /dev/shm/s --results r.jsonl '1B *' kill    # some of the settings
    python scripts/benchmarks/scale.py --folder /tmp/t --results t.jsonl --tiny             # a try on CPUs, with gloo
    python scripts/benchmarks/scale.py --results r.jsonl --table                            # from stored results

Models have the shapes of Llama-3.2-1B and Llama-3.1-8B and random weights, written to --folder (2.5 and 16 GB). Each
job is a run of `ftune sft` or `ftune ppo` as a user starts it, which makes its own processes, and is ended behind its
last step: what its result is worth is for the benchmark of backends. Rows have 2,048 tokens; a process computes 8 at
once with 1B, and 4 with 8B, there with activation checkpointing. Layers are not compiled, with any backend.

Tokens per second are of all processes, by the median step behind the first third. Efficiency is that of weak scaling:
a GPU has the same rows at any number. 1B is held against DDP's run on one GPU, 8B against the setting's own on the
fewest GPUs that it fits on. What does not fit by `ftune plan` is told and left out. Memory is the highest peak of all
ranks (of the first one in PPO), beside what the run predicted before its first step; both are in its events. Losses are
those of the first five steps beside one process that sees the same rows in each, by accumulation: the largest relative
difference. Where one process has no room for that, it is to the model's first setting on as many GPUs.

PPO has LoRA, the reference and a reward adapter on one base, 64 prompts of 128 tokens and 256 new ones for each
process; seconds are medians behind the second iteration. A rank of a 100M model is killed with SIGKILL while its second
checkpoint is written, with DDP and FSDP2 at once, on all GPUs. No speed is measured while that is done or models are
written.

A result is a JSON line; a job that has one is not run again, unless it failed and --retry is given. So results of a
machine with fewer GPUs can be brought along, but what one GPU does is measured on each machine anew. After the budget
nothing starts and nothing goes on. The table and the picture lie beside the results, as .md and .png.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from backends_parts.command_line import parsed, parser_of
from backends_parts.results import Result, kept, tell
from scale_parts.material import Material
from scale_parts.measuring import measure, named
from scale_parts.picture import draw
from scale_parts.settings import SETTINGS, Job, is_done, jobs
from scale_parts.table import markdown

from ftune.backends.machine import count_gpus

TINY_PROCESSES = 2


def run(given: argparse.Namespace, machine: int) -> None:
    """One job after the other, each kept at once."""
    until = time.monotonic() + given.budget
    before = kept(given.results)
    wanted = [job for job in jobs(machine, given.settings) if not is_done(job, before, machine, retry=given.retry)]
    common = {"machine": machine, "command": shlex.join(["python", "scripts/benchmarks/scale.py", *sys.argv[1:]])}
    material = Material(given.folder.resolve(), tiny=given.tiny)
    material.begin(wanted)
    for job in wanted:
        left = until - time.monotonic()
        if left < (0 if given.tiny else job.setting.seconds):
            print(f"no time left for {job.title}: {left:.0f} s", flush=True)
            continue
        for result in outcome(job, material, given, min(given.limit, left)):
            tell({**result, "date": f"{datetime.now(UTC):%Y-%m-%d}", **common}, given.results)


def outcome(job: Job, material: Material, given: argparse.Namespace, limit_s: float) -> list[Result]:
    """The results of a job; whatever it leaves behind, the others are measured."""
    words = ["backend.device=cpu"] if given.tiny else []
    try:
        return measure(job, material, words, limit_s)
    except Exception as error:
        return [{**named(job), "error": repr(error)[:400]}]


def show(results: Path) -> None:
    """Print the table, and write it and the picture beside the results."""
    found = kept(results)
    table = markdown(found)
    results.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    draw(found, results.with_suffix(".png"))
    print(table)


def arguments() -> argparse.Namespace:
    """The command line."""
    names = [setting.name for setting in SETTINGS]
    parser = parser_of(__doc__, names, limit_s=200.0)
    parser.add_argument("--gpus", type=int, help="the most that are used; all by default")
    return parsed(parser, names)


def main() -> None:
    """Measure, and show what was measured."""
    given = arguments()
    if not given.table:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and no run is left behind
        here = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))
        run(given, given.gpus or (TINY_PROCESSES if given.tiny else count_gpus() or 1))
    show(given.results)


if __name__ == "__main__":
    main()
