"""`ftune recipes`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Recipes that come with ftune.", no_args_is_help=False, invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="Name as 'ftune recipes list' shows it.", show_default=False)]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List the recipes."""
    from ftune.recipes.catalogue import names

    found = list(names())
    width = max(len(name) for name, _ in found)
    for name, summary in found:
        typer.echo(f"{name:<{width}}  {summary}")


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    from ftune.recipes.catalogue import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def copy(
    name: Name, target: Annotated[Path, typer.Argument(help="File to write.", show_default=False)] = Path()
) -> None:
    """Copy a recipe, to change it.

    Example: ftune recipes copy lora my.yaml
    """
    from ftune.recipes.catalogue import copy_recipe

    to = target / f"{Path(name).name}.yaml" if target.is_dir() else target
    for path in copy_recipe(name, to):
        typer.echo(path)
