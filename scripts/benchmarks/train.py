"""Training speed: tokens per second and peak memory of ftune, of TRL, and of a loop tuned by hand, on the same rows.

    python scripts/benchmarks/train.py --folder /dev/shm/t                      # all settings on one GPU
    python scripts/benchmarks/train.py --folder /dev/shm/t --only "1B LoRA"     # some of them
    python scripts/benchmarks/train.py --unsloth FOLDER                         # Unsloth too, whose packages lie there
    python scripts/benchmarks/train.py --cpu                                    # the quickstart against TRL, on CPUs
    python scripts/benchmarks/train.py --tiny                                   # a try of everything on a CPU

Models have real shapes and random weights; rows are random words of log-normal length, 500 on average and 2,048 at
most; a step has about 16,000 tokens. TRL at its best packs, has adapters in bf16, Liger's kernels where they are
installed, and the attention without padding that ftune brings. Unsloth at its best packs, with the attention that it
chooses among what is installed (the result names it); it is measured from a folder of packages of its own, for it wants
older versions of TRL and datasets than ftune. The loop tuned by hand (`train_parts/tuned.py`) is what this machine can
do. `ftune` is the command with the shipped defaults; `ftune, packed` with `data.packing: true`; `ftune, packed, fp8`
with `speed.fp8: tensorwise` too, which is measured where --ways names it.

Each measurement is a process of its own; on a GPU the next one imports meanwhile. Tokens per second count tokens of
rows, not padding: by the median time of the steps behind the first ones. Memory is what PyTorch had handed out at most;
on a CPU, the process's largest resident size. Results are JSON lines on stdout and in --results; behind them come a
table and ratios. With --cpu, rows and settings are those of recipes/quickstart.yaml, ways take turns for --rounds, and
`TRL, same settings` neither computes activations again nor rounds to bf16.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from train_parts.material import make_material
from train_parts.processes import measured
from train_parts.recipes import write_recipe
from train_parts.table import markdown, ratios
from train_parts.work import SETTINGS, UNSLOTH, WAYS, WHOLE, Job, Setting, folder_of

HERE = Path(__file__).parent
QUICKSTART = HERE.parents[1] / "recipes" / "quickstart.yaml"
CPU_WAYS = ["TRL as it ships", "TRL, same settings", "ftune"]
EVERY_WAY = [*WAYS, *WHOLE, UNSLOTH, *CPU_WAYS]
TINY = [
    Setting("tiny LoRA", "tiny"),
    Setting("tiny full, checkpointing", "tiny", full=True, checkpointing=True),
    Setting("tiny full, selective checkpointing", "tiny", full=True, selective=True),
]


def gpu_jobs(
    settings: Sequence[Setting], ways: Sequence[str], root: Path, steps: int, unsloth: str = ""
) -> Iterator[Job]:
    """All settings in all ways; models and rows are made when they are first wanted."""
    for setting in settings:
        tiny = setting.model == "tiny"
        rows, longest, mean = (4, 64, 16) if tiny else (8, 2048, 500)
        folder = folder_of(root, setting.model)
        make_material(folder, setting.model, rows=(steps + 2) * rows * 8, mean=mean, longest=longest)
        recipe = str(write_recipe(setting, folder, longest=longest, rows=rows))
        for way in ways:
            if (way not in WHOLE or setting.full) and (way.startswith("ftune") or not setting.ours):
                packages = unsloth if way == UNSLOTH else ""
                yield Job(way, setting, recipe, steps, steps // 3, longest, rows, packages)


def cpu_jobs(ways: Sequence[str], rounds: int, steps: int) -> Iterator[Job]:
    """The quickstart, in turns."""
    setting = Setting("quickstart", "quickstart")
    for _ in range(rounds):
        for way in ways:
            yield Job(way, setting, str(QUICKSTART), steps, steps // 4, 256, 8)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for models and rows; kept. By default a temporary one")
    parser.add_argument("--results", type=Path, help="a file that JSON lines are added to")
    parser.add_argument("--only", nargs="*", metavar="SETTING", help="; ".join(setting.name for setting in SETTINGS))
    parser.add_argument("--ways", nargs="*", metavar="WAY", help="; ".join(dict.fromkeys(EVERY_WAY)))
    parser.add_argument("--unsloth", default="", metavar="FOLDER", help="of packages: measure Unsloth too")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3, help="of --cpu")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one measurement")
    parser.add_argument("--cpu", action="store_true", help="the quickstart on this machine's processors")
    parser.add_argument("--tiny", action="store_true", help="a try on a CPU")
    given = parser.parse_args()
    settings = [one for one in (TINY if given.tiny else SETTINGS) if not given.only or one.name in given.only]
    ways = given.ways or (CPU_WAYS if given.cpu else [*WAYS, *([UNSLOTH] if given.unsloth else [])])
    with tempfile.TemporaryDirectory() as temporary:
        root = given.folder or Path(temporary)
        jobs = (
            cpu_jobs(ways, given.rounds, given.steps)
            if given.cpu
            else gpu_jobs(settings, ways, root, given.steps, given.unsloth)
        )
        results = measured(iter(jobs), given.limit, given.results, ahead=not given.cpu)
    print(markdown(results))
    print(ratios(results))


if __name__ == "__main__":
    main()
