"""`ftune data`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ftune.cli.sft import Overrides, RecipePath

app = typer.Typer(help="Look at the rows of a recipe.", no_args_is_help=True)


@app.command()
def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show rows as the model will see them, with the trained tokens marked.

    Example: ftune data preview recipes/lora.yaml --rows 5
    """
    from ftune.recipes.load import load_recipe
    from ftune.recipes.runs.preview import preview as print_preview

    print_preview(load_recipe(None, recipe, overrides or ()).recipe, rows=rows, as_json=json)


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a warning or an error was found.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the findings and plots.")] = None,
) -> None:
    """Look at every row: what is dropped and why, duplicates, lengths, damage, balance, secrets.

    Example: ftune data check recipes/lora.yaml --html check.html
    """
    from ftune.recipes.load import load_recipe
    from ftune.recipes.runs.check import check as run_check

    loaded = load_recipe(None, recipe, overrides or ())
    if not run_check(loaded.recipe, strict=strict, as_json=json, page=html):
        raise typer.Exit(1)


class Layout(StrEnum):
    """What rows can be converted to."""

    messages = "messages"


@app.command()
def convert(
    recipe: RecipePath,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="OUTPUT [KEY.PATH=VALUE]...",
            help="The file to write, JSON Lines; and recipe values to change.",
            show_default=False,
        ),
    ],
    to: Annotated[Layout, typer.Option("--to", help="The layout of the new rows.")] = Layout.messages,
) -> None:
    """Write what ftune understood of the training rows as clean rows.

    Example: ftune data convert recipes/lora.yaml --to messages clean.jsonl
    """
    from ftune.core.errors import RecipeError
    from ftune.recipes.load import load_recipe
    from ftune.recipes.runs.convert import convert as run_convert

    outputs = [word for word in words if "=" not in word]
    if len(outputs) != 1:
        raise RecipeError(f"give one file to write beside the recipe, got {', '.join(outputs) or 'none'}")
    overrides = [word for word in words if "=" in word]
    run_convert(load_recipe("sft", recipe, overrides).recipe, Path(outputs[0]))
