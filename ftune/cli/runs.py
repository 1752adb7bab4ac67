"""`ftune runs` and `ftune plot`."""

from pathlib import Path
from typing import Annotated

import typer


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List runs: state, command, steps, loss, metric, time. The newest comes first.

    Example: ftune runs
    """
    import json

    from ftune.report.listing import find_runs, table_of

    found = find_runs(folder)
    typer.echo(json.dumps([run.as_dict() for run in found], indent=2) if as_json else table_of(found))


def plot(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD]...", help="What to draw, such as loss.", show_default="all")
    ] = None,
) -> None:
    """Draw the curves of a run in the terminal.

    Example: ftune plot runs/lora loss grad_norm
    """
    import shutil
    import sys

    from ftune.report.run_record import read_run
    from ftune.report.terminal import draw_run

    width = min(shutil.get_terminal_size((100, 24)).columns, 200)
    braille = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(draw_run(read_run(run), fields or (), width, braille=braille))
