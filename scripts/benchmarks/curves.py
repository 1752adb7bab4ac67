"""Loss curves: whether what makes training fast changes what is learned, by `ftune sft` itself.

    python scripts/benchmarks/curves.py --model FOLDER --data rows.jsonl     # a trained model on real rows
    python scripts/benchmarks/curves.py ... --full --way bf16 optim.optimizer=adamw_bf16 model.dtype=bf16
    python scripts/benchmarks/curves.py --tiny                               # a try on a CPU: random weights and rows

`plain` has all keys of `speed` off, `ftune` the shipped defaults and compiled layers; each further `--way` has those
and its overrides. All train with each seed, which decides the rows' order and the first adapters. The measure is the
mean absolute difference of smoothed losses: of a way to `plain` with the same seed, beside that of `plain` between
seeds. A way that is farther from `plain` than another seed would be is told as NOT within, and the exit code is 1.
Seeds see other rows at each step, so this finds a way that learns worse, not one that rounds otherwise: the numbers say
how far each is.

Each run is a process of its own; the next one imports meanwhile. Results are JSON lines on stdout and in --results;
behind them comes a table, and a picture of all curves.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from train_parts.likeness import curves_of, table
from train_parts.material import make_material
from train_parts.processes import measured
from train_parts.recipes import write_recipe
from train_parts.work import Job, Result, Setting, folder_of

PLAIN = "plain"
OFF = [f"speed.{key}=off" for key in ("packed_attention", "fused_loss", "folded_lora", "compiled_layers")]
ON = ["speed.compiled_layers=on"]
COLORS = ["#D1D5DB", "#0072B2", "#D55E00", "#009E73", "#882255"]


def jobs_of(given: argparse.Namespace, root: Path) -> Iterator[Job]:
    """Every way with every seed; model and rows are made where none are given."""
    ways = {PLAIN: OFF, "ftune": ON} | {name: [*ON, *words] for name, *words in given.way}
    rows, longest = (4, 64) if given.tiny else (given.rows, given.longest)
    folder = folder_of(root, "tiny")
    folder.mkdir(parents=True, exist_ok=True)
    if given.model:
        found = Path(given.model)
        model = found.resolve() if found.exists() else given.model
        shared = [f"model.path={model}", f"data.train={given.data.resolve()}"]
    else:
        make_material(folder, "tiny", rows=(given.steps + 2) * rows * 4, mean=16, longest=longest)
        shared = []
    shared += [f"schedule.max_steps={given.steps}", f"optim.learning_rate={given.learning_rate}", *given.set]
    for seed in given.seeds:
        setting = Setting(f"seed {seed}", "tiny", full=given.full)
        recipe = str(write_recipe(setting, folder, longest=longest, rows=rows))
        for name, words in ways.items():
            yield Job(name, setting, recipe, given.steps, 0, longest, rows, "", [*shared, f"seed={seed}", *words])


def draw(results: Sequence[Result], picture: Path) -> None:
    """All curves: a way has a colour, a seed a line of its own kind; plain's is wide, for others to lie on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot(xlabel="step", ylabel="smoothed loss")
    curves = curves_of(results)
    ways, seeds = (list(dict.fromkeys(key[place] for key in curves)) for place in (0, 1))
    for (way, seed), curve in curves.items():
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            label=f"{way}, {seed}",
            color=COLORS[ways.index(way) % len(COLORS)],
            linestyle=["-", "--", ":"][seeds.index(seed) % 3],
            linewidth=5 if way == PLAIN else 1.5,
        )
    axes.legend()
    figure.savefig(picture, dpi=120)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, a GGUF file, or what else model.path of a recipe takes")
    parser.add_argument("--data", type=Path, help="rows for it")
    parser.add_argument("--folder", type=Path, help="for recipes and what is made; kept. By default a temporary one")
    parser.add_argument("--results", type=Path, help="a file that JSON lines are added to")
    parser.add_argument("--picture", type=Path, default=Path("curves.png"))
    parser.add_argument("--way", nargs="+", action="append", default=[], metavar="WORD", help="NAME KEY=VALUE ...")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for all ways")
    parser.add_argument("--full", action="store_true", help="all parameters train, instead of LoRA")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=8, help="of a micro-batch, four of which are a step")
    parser.add_argument("--longest", type=int, default=512, help="tokens of a row")
    parser.add_argument("--learning-rate", default="1e-4")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one run")
    parser.add_argument("--tiny", action="store_true", help="a try on a CPU")
    given = parser.parse_args()
    if bool(given.model) != bool(given.data):
        parser.error("--model and --data belong together; without both they are made")
    if len(given.seeds) < 2:
        parser.error("--seeds: two at least; how far they are apart is the measure")
    return given


def main() -> None:
    """Train in all ways, and compare."""
    given = parse()
    with tempfile.TemporaryDirectory() as temporary:
        jobs = jobs_of(given, given.folder or Path(temporary))
        results = measured(jobs, given.limit, given.results, ahead=not given.tiny)
    compared = table(results, PLAIN)
    print(compared)
    if curves_of(results):
        draw(results, given.picture)
        print(f"curves: {given.picture}")
    if "NOT within" in compared or "nothing to compare" in compared:
        sys.exit(1)


if __name__ == "__main__":
    main()
