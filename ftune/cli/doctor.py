"""`ftune doctor`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe to judge here.", show_default=False)] = None,
    network: Annotated[bool, typer.Option("--network", help="Time all-reduces between the processes.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=1, metavar="SECONDS", help="How long --network waits for processes to come.")
    ] = 60,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what this machine has, what will not work on it and why.

    The exit code is 0 where nothing is an error and 1 where something is; warnings do not count.

    Example: ftune doctor recipes/lora.yaml
    """
    if network:
        from ftune.launch.doctor.network import time_network

        raise typer.Exit(time_network(recipe, sys.argv[1:], wait, as_json=json))
    from ftune.core.say import Say
    from ftune.launch.doctor.checkup import examine
    from ftune.launch.doctor.show import as_json, tell

    findings = examine(recipe)
    if json:
        typer.echo(as_json(findings))
    else:
        tell(findings, Say())
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
