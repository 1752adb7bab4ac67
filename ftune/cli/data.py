"""`ftune data`."""

from typing import Annotated

import typer

from ftune.cli.sft import Overrides, RecipePath

app = typer.Typer(help="Look at the rows of a recipe.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `preview` a subcommand although it is the only one yet."""


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

    print_preview(load_recipe("sft", recipe, overrides or ()).recipe, rows=rows, as_json=json)
