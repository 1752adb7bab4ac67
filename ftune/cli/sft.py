"""`ftune sft`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Recipe values to change.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print every value and its origin, and what training needs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint, if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")]


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune a model on instructions, chats, completions or plain text.

    Example: ftune sft recipes/lora.yaml data.train=my.jsonl
    """
    run_recipe("sft", recipe, overrides, dry_run=dry_run, resume=resume, overwrite=overwrite)


def run_recipe(
    command: str,
    path: Path,
    overrides: list[str] | None,
    *,
    text: str | None = None,
    dry_run: bool,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Load a recipe and run it, in as many processes as it wants, or print what it resolves to."""
    import os
    import shlex

    from ftune.core.errors import RecipeError
    from ftune.core.world import LAUNCHER
    from ftune.launch.node import start_here
    from ftune.recipes.base import RunOptions
    from ftune.recipes.load import load_recipe
    from ftune.recipes.show import resolved_with_origins

    loaded = load_recipe(command, path, overrides or (), text=text)
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite: choose one")
    if dry_run:
        from ftune.recipes.runs.plan_command import folder_here, plan_here

        typer.echo(resolved_with_origins(loaded))
        if text := plan_here(loaded):
            typer.echo(f"\n{text}")
        if text := folder_here(loaded, resume=resume, overwrite=overwrite):
            typer.echo(f"\n{text}")
        return
    words = sys.argv[1:]
    if (code := start_here(loaded.recipe, path, words)) is not None:
        raise typer.Exit(code)
    command = os.environ.get(LAUNCHER) or shlex.join(["ftune", *words])
    loaded.recipe.execute(RunOptions(loaded.text, command, resume=resume, overwrite=overwrite))


def quoted(text: str) -> str:
    """A text as YAML reads it, which does not know the two escapes in which JSON writes a character beyond U+FFFF."""
    import json

    return json.dumps(text, ensure_ascii=False)
