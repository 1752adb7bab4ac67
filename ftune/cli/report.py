"""`ftune report`."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, up to eight.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.", show_default="RUN/report.html; of several: report.html"),
    ] = None,
) -> None:
    """Write the report of a run, or of several beside each other, as one HTML file.

    Example: ftune report runs/lora runs/full --output compare.html
    """
    from ftune.report.page.write import PAGE, write_page

    default = runs[0] / PAGE if len(runs) == 1 else Path(PAGE)
    typer.echo(write_page(runs, output or default))
