"""The page as one file: of a run into its folder, of several beside each other into a file of one's choice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftune import __version__
from ftune.core.checkpoints import storage_errors, write_atomically
from ftune.core.errors import RecipeError
from ftune.core.paths import shown
from ftune.report.curves import Panel, panels_of, percent, short
from ftune.report.markdown import private
from ftune.report.page import chart as charts
from ftune.report.page.cost import expected, phases
from ftune.report.page.data_summary import data_summary
from ftune.report.page.evaluation import comparison
from ftune.report.page.facts import costs, facts, results, task
from ftune.report.page.incidents import incidents
from ftune.report.page.samples import samples_of
from ftune.report.recipe_changes import changes
from ftune.report.run_record import RunRecord, read_run

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
FOLDER = Path(__file__).parent
GENERATOR = '<meta name="generator" content="ftune'

LARGEST_BYTES = 1_000_000
MOST_RUNS = 8
"""As many as there are colours that can be told apart."""

MOST_CHARTS = 40
RECIPE_CHARACTERS = 20_000
MOST_DIFFERENCES = 60

DETAIL = ((240, 12), (120, 8), (60, 4), (30, 1), (10, 0))
"""Points of a curve and samples of a run, until the page is small enough."""

MORE = [
    Panel("policy_loss", "Policy loss"),
    Panel("value_loss", "Value loss"),
    Panel("repetition", "Repeated text", percent),
]
COSTS = [
    Panel("tokens_per_s", "Tokens per second", lambda value: f"{value:,.0f}"),
    Panel("rollout_tokens_per_s", "Tokens per second of rollouts", lambda value: f"{value:,.0f}"),
    Panel("mfu", "Share of the GPU's peak (MFU)", percent),
    Panel("memory_gib", "Peak memory so far, GiB", short, noisy=False),
]


def write_report_page(folder: Path) -> Path:
    """Write `report.html` into a run's folder. Raises RecipeError, DataError or StorageError."""
    return write_page([folder], folder / PAGE)


def write_page(folders: Sequence[Path], output: Path) -> Path:
    """Write the page of one or more runs. Raises RecipeError, DataError or StorageError."""
    if not 1 <= len(folders) <= MOST_RUNS:
        raise RecipeError(f"{len(folders)} runs: one page shows 1 to {MOST_RUNS}; name those to compare")
    _check_replaceable(output)
    runs = _named([read_run(folder) for folder in folders])
    for points, samples in DETAIL:
        page = render(runs, points, samples)
        if len(page.encode()) <= LARGEST_BYTES:
            break
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page)
    return output


def _check_replaceable(output: Path) -> None:
    """Raises RecipeError for a folder, and for a file that is no such page."""
    if output.is_dir():
        raise RecipeError(f"--output: {shown(output)} is a folder; name a file in it")
    if output.is_file():
        with storage_errors(output), output.open(encoding="utf-8", errors="replace") as file:
            if GENERATOR not in file.read(2000):
                raise RecipeError(f"--output: {shown(output)} is there and is no report of ftune; name another file")


def _named(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs whose folders have the same name are told apart by their paths."""
    often = Counter(run.name for run in runs)
    return [replace(run, name=shown(run.path)) if often[run.name] > 1 else run for run in runs]


def render(runs: Sequence[RunRecord], points: int, samples: int) -> str:
    """The page as HTML, its curves of at most so many points and each run with at most so many samples."""
    from markupsafe import Markup

    several = len(runs) > 1
    template = _templates().get_template("page.html.jinja")
    page = template.render(
        runs=[_sections(number, run, samples // len(runs)) for number, run in enumerate(runs)],
        several=several,
        facts=facts(runs),
        labels=list(dict.fromkeys(tile.label for run in runs for tile in results(run))),
        curves=_charts(runs, _training_panels(runs), points // len(runs), from_zero=False),
        cost_curves=_charts(runs, COSTS, points // len(runs), from_zero=True),
        recipe_differences=_recipe_differences(runs),
        style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - a file of this package
        frame={key: getattr(charts, name) for key, name in FRAME.items()},
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return page.lstrip()


@cache
def _templates() -> "Environment":
    """Where templates come from, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: private(value) if type(value) is str else value,
    )
    environment.filters["percent"] = percent
    return environment


FRAME = {"W": "WIDTH", "H": "HEIGHT", "L": "LEFT", "R": "RIGHT", "T": "TOP", "B": "BOTTOM"}


def _sections(number: int, run: RunRecord, samples: int) -> dict[str, Any]:
    """What the page tells of one run."""
    environment = run.environment
    machine = {key: environment[key] for key in ("python", "platform", "cpu", "memory_gib", "gpus", "git")
               if environment.get(key)}  # fmt: skip
    return {
        "number": number,
        "name": run.name,
        "state": run.state,
        "task": task(run),
        "model": str(run.last("start").get("model") or ""),
        "results": results(run),
        "costs": costs(run),
        "evaluation": comparison(run),
        "data": data_summary(run),
        "samples": samples_of(run, samples),
        "incidents": incidents(run),
        "phases": phases(run),
        "expected": expected(run),
        "environment": {key: _in_words(value) for key, value in machine.items()},
        "versions": environment["versions"] if isinstance(environment.get("versions"), dict) else {},
        "recipe": _cut(run.text("recipe.yaml")),
        "resolved": _cut(yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True)) if run.recipe else "",
    }


def _training_panels(runs: Sequence[RunRecord]) -> list[Panel]:
    elsewhere = {panel.field for panel in COSTS}
    known = panels_of([event for run in runs for event in run.of_kind("step", "eval")])
    return [*(panel for panel in known if panel.field not in elsewhere), *MORE][:MOST_CHARTS]


def _charts(runs: Sequence[RunRecord], panels: Sequence[Panel], points: int, *, from_zero: bool) -> list[charts.Chart]:
    drawn = (charts.chart(panel, runs, max(points, 8), from_zero=from_zero) for panel in panels)
    return [chart for chart in drawn if chart]


def _recipe_differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Keys in which the recipes differ, with the value of each run."""
    names = dict.fromkeys(
        name for run in runs[1:] for name, _, _ in changes(runs[0].recipe, run.recipe) if name != "output_dir"
    )
    table = ((name, [_in_words(_at(run.recipe, name)) for run in runs]) for name in names)
    return [(name, values) for name, values in table if len(set(values)) > 1][:MOST_DIFFERENCES]


def _at(recipe: Any, name: str) -> object:
    for key in name.split("."):
        recipe = recipe.get(key) if isinstance(recipe, dict) else None
    return recipe


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return "" if value is None else str(value)[:500]


def _cut(text: str) -> str:
    return text if len(text) <= RECIPE_CHARACTERS else f"{text[:RECIPE_CHARACTERS]}\n... (cut here)"
