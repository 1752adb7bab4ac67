"""`ftune merge`."""

from pathlib import Path
from typing import Annotated

import typer

from ftune.cli.sft import DryRun, Overrides, quoted, run_recipe

EXPORT = "Export"
Text = str | None


def run(
    target: Annotated[
        str, typer.Argument(help="A run folder, an adapter, a model, or a recipe of type merge.", show_default=False)
    ],
    overrides: Overrides = None,
    base: Annotated[Text, typer.Option(help="The model to merge into.", show_default="the adapter's own")] = None,
    output: Annotated[Text, typer.Option(help="Folder to write.", show_default="RUN/merged")] = None,
    dtype: Annotated[Text, typer.Option(help="fp32, bf16 or fp16.", show_default="the base's")] = None,
    max_shard_size: Annotated[Text, typer.Option(help="Largest file.", show_default="5GB")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with the adapter on its base.")] = True,
    quantize: Annotated[
        Text, typer.Option(help="Also write nf4, int8, fp8 or int4.", rich_help_panel=EXPORT, show_default=False)
    ] = None,
    gguf: Annotated[
        Text, typer.Option(help="Also write GGUF: f16, q8_0, ...", rich_help_panel=EXPORT, show_default=False)
    ] = None,
    push: Annotated[
        Text, typer.Option(metavar="ORG/NAME", help="Upload it to the hub.", rich_help_panel=EXPORT, show_default=False)
    ] = None,
    dry_run: DryRun = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a merged model in the folder.")] = False,
) -> None:
    """Make one model of a base and its adapter, tensor by tensor, and prove that it is the one that was trained.

    Example: ftune merge runs/lora --gguf q8_0
    """
    given = {"base": base, "output": output, "dtype": dtype, "max_shard_size": max_shard_size}
    given |= {"quantize": quantize, "gguf": gguf, "push": push}
    words = [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]
    words += [] if verify else ["verify=null"]
    path = Path(target)
    is_recipe = path.suffix in (".yaml", ".yml")
    text = None if is_recipe else f"sources: {quoted(target)}\n"
    run_recipe("merge", path, [*(overrides or []), *words], text=text, dry_run=dry_run, overwrite=overwrite)
