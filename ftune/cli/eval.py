"""`ftune eval`."""

from pathlib import Path
from typing import Annotated

import typer

from ftune.cli.sft import DryRun, Overrides, quoted, run_recipe


def run(
    target: Annotated[
        str, typer.Argument(help="A run folder, an adapter, a model, or a recipe of type eval.", show_default=False)
    ],
    overrides: Overrides = None,
    compare: Annotated[bool, typer.Option("--compare", help="A table of the evaluations of several runs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --compare: as JSON.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Compare base and tuned model on held-out rows.

    Example: ftune eval runs/quickstart rows=test.jsonl

    Several runs beside each other: ftune eval --compare runs/*
    """
    if compare:
        _compare([target, *(overrides or [])], as_json=json)
        return
    path = Path(target)
    text = None if path.suffix in (".yaml", ".yml") else f"model: {quoted(target)}\n"
    run_recipe("eval", path, overrides, text=text, dry_run=dry_run)


def _compare(folders: list[str], *, as_json: bool) -> None:
    from json import dumps

    from ftune.report.compare import compare_runs, comparison_table

    compared = compare_runs([Path(folder) for folder in folders])
    typer.echo(dumps(compared.as_dict(), indent=2) if as_json else comparison_table(compared))
