"""`ftune schema`."""

import json
from typing import Annotated

import typer


def run(command: Annotated[str, typer.Argument(help="The command whose recipes are described.")] = "sft") -> None:
    """Print the JSON Schema of a command's recipes, for editors and tools.

    Example: ftune schema sft > sft.schema.json
    """
    from ftune.recipes.load import recipe_schema

    typer.echo(json.dumps(recipe_schema(command), indent=2))
