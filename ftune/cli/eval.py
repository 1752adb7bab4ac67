"""`ftune eval`."""

from pathlib import Path
from typing import Annotated

import typer

from ftune.cli.sft import DryRun, Overrides, run_recipe


def run(
    target: Annotated[Path, typer.Argument(help="A run folder, or a recipe of type eval.", show_default=False)],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Compare base and tuned model on held-out rows.

    Example: ftune eval runs/quickstart rows=test.jsonl
    """
    text = f"run: {target}\n" if target.is_dir() else None
    run_recipe("eval", target, overrides, text=text, dry_run=dry_run)
