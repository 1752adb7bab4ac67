"""`ftune plan`."""

from pathlib import Path
from typing import Annotated

import typer

from ftune.cli.sft import Overrides

DEVICES, BY_HAND, FIT = "Devices", "A model by hand, instead of the recipe's", "Making it fit"
"""Panels of the help page."""


def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, a YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="h100, a100-40, rtx4090, 24GiB, ...", show_default="this machine's", rich_help_panel=DEVICES),
    ] = None,
    num_gpus: Annotated[
        int | None, typer.Option(help="GPUs of each node.", show_default="as the recipe says", rich_help_panel=DEVICES)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="How many nodes.", show_default="as the recipe says", rich_help_panel=DEVICES)
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of one GPU for an hour.", show_default=False, rich_help_panel=DEVICES)
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Parameters: 70B, 125M.", show_default=False, rich_help_panel=BY_HAND)
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers.", rich_help_panel=BY_HAND)] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the model.", rich_help_panel=BY_HAND)] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.", rich_help_panel=BY_HAND)] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Heads of keys and values.", rich_help_panel=BY_HAND)] = None,
    ffn: Annotated[int | None, typer.Option(help="Width of the feed-forward block.", rich_help_panel=BY_HAND)] = None,
    vocab: Annotated[int | None, typer.Option(help="Size of the vocabulary.", rich_help_panel=BY_HAND)] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="The cheapest changes with which it fits.", rich_help_panel=FIT)
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="With --fit: a recipe to write that extends this one.", rich_help_panel=FIT),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run 3 steps here, keep nothing, and go by their speed and peak.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Published numbers, recomputed; needs no recipe.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what a recipe needs before it runs: memory by part, time, cost, and what makes it fit.

    No GPU is needed, and nothing is downloaded but the model's config.json; a --probe needs what a run needs.

    Example: ftune plan recipes/lora.yaml --gpu rtx4090 --fit
    """
    from ftune.core.errors import RecipeError

    if table:
        from ftune.recipes.runs.plan_published import published_table

        typer.echo(published_table(as_json=json))
        return
    if recipe is None:
        raise RecipeError("which recipe? 'ftune plan RECIPE', or 'ftune plan --table' for published numbers")
    from ftune.recipes.runs.plan_command import ByHand, Wanted, planned

    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "ffn": ffn, "vocab": vocab}
    by_hand = ByHand(params, sizes)
    wanted = Wanted(gpu, num_gpus, nodes, price, by_hand, fit=fit or write is not None, write=write)
    if probe:
        from dataclasses import replace

        from ftune.launch.processes import ftune_command

        wanted = replace(wanted, probe=ftune_command)
    typer.echo(planned(recipe, overrides or (), wanted, as_json=json))
