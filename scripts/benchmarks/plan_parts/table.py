"""What was measured beside what `ftune.plan` says of the same recipe."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plan_parts.settings import SLOW

Result = dict[str, Any]
GIB = 2**30
NEAR, FAR = 0.10, 0.20


def predicted(result: Result) -> int:
    """Bytes on a rank at the peak, for the recipe and the model's configuration that a result has kept."""
    from ftune.plan.estimate import estimate
    from ftune.plan.families import shape_of_config
    from ftune.recipes.load import load_recipe
    from ftune.recipes.runs.plan_job import job_of
    from ftune.recipes.runs.plan_rows import Rows
    from ftune.recipes.runs.plan_world import Asked, spread_of

    given = result["recipe"]
    if given["type"] == "sft":
        given = {"speed": SLOW, **given}  # results that name none are from before there was one
    # models, rows and GPUs are on the machine that measured
    text, elsewhere = json.dumps(given), {"model", "data", "optim", "backend"}
    recipe: Any = load_recipe(None, Path(result["setting"]), text=text, elsewhere=elsewhere).recipe
    shape = shape_of_config(result["config"], result["shape"])
    rows = Rows(result["length"], "the benchmark", count=1, tokens=result["length"])
    job, _ = job_of(recipe, shape, rows, spread_of(recipe, Asked(gpus=result["gpus"])), "bf16", on_gpu=True)
    compiles = given.get("speed", {}).get("compiled_layers") == "on"  # for such a short run, only where it says so
    return estimate(replace(job, compiled=compiles)).peak


def off(measured: int, expected: int) -> float:
    """By how much of the measured peak the prediction is off; below 0 where it says too little."""
    return (expected - measured) / measured


def markdown(results: Sequence[Result]) -> str:
    """A row for each setting, and how many of them are near."""
    head = ("setting", "rows x tokens", "loaded GiB", "peak GiB", "predicted GiB", "off", "seconds")
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    found: list[float] = []
    for result in results:
        expected = predicted(result)
        peak = max(result["peak"], result["loading_peak"]) if result.get("peak") and "error" not in result else None
        if peak:
            found.append(off(peak, expected))
        lines.append("| " + " | ".join(_cells(result, peak, expected)) + " |")
    return "\n".join([*lines, "", *_shares(found), *_verdicts(results)])


def _cells(result: Result, peak: int | None, expected: int) -> list[str]:
    measured = f"{peak / GIB:.2f}" if peak else _failure(result)
    loaded = f"{result['loaded'] / GIB:.2f}" if result.get("loaded") is not None else ""
    difference = f"{off(peak, expected):+.1%}" if peak else ""
    rows = f"{result['rows']} x {result['length']:,}"
    return [result["setting"], rows, loaded, measured, f"{expected / GIB:.2f}", difference, f"{result['all_s']:.0f}"]


def _failure(result: Result) -> str:
    if result.get("out_of_memory"):
        return f"more than {result['card'] / GIB:.1f}" if result.get("card") else "out of memory"
    return str(result.get("error", "not measured")).splitlines()[0].replace("|", "/")[:80]


def _shares(found: Sequence[float]) -> list[str]:
    """How many predictions are within the two limits, and the worst on either side."""
    if not found:
        return ["nothing was measured on a GPU"]
    lines = [
        f"within {limit:.0%}: {sum(abs(value) <= limit for value in found)} of {len(found)} "
        f"({sum(abs(value) <= limit for value in found) / len(found):.0%})"
        for limit in (NEAR, FAR)
    ]
    return [*lines, f"furthest off: {min(found):+.1%} and {max(found):+.1%}"]


def _verdicts(results: Sequence[Result]) -> list[str]:
    """For runs that did not fit into their card: whether the prediction says so."""
    failed = [result for result in results if result.get("out_of_memory") and result.get("card")]
    right = sum(predicted(result) > result["card"] for result in failed)
    return [f"out of memory, as predicted: {right} of {len(failed)}"] if failed else []
