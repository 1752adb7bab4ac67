"""The `ftune` program: its commands, and how failures become one-line messages and exit codes."""

import os
import sys
from typing import Annotated

import typer

from ftune import __version__
from ftune.cli import chat, data, doctor, eval, launch, merge, plan, ppo, recipes, report, rm, runs, schema, sft
from ftune.core.errors import FtuneError
from ftune.core.quiet import quiet_upstream

app = typer.Typer(
    name="ftune",
    help="Fine-tune language models from YAML recipes.\n\nExample: ftune sft recipes/lora.yaml data.train=my.jsonl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sft", help=sft.run.__doc__)(sft.run)
app.command("rm", help=rm.run.__doc__)(rm.run)
app.command("ppo", help=ppo.run.__doc__)(ppo.run)
app.command("plan", help=plan.run.__doc__)(plan.run)
app.command("merge", help=merge.run.__doc__)(merge.run)
app.command("eval", help=eval.run.__doc__)(eval.run)
app.command("chat", help=chat.run.__doc__)(chat.run)
app.command("report", help=report.run.__doc__)(report.run)
app.command("runs", help=runs.list_runs.__doc__)(runs.list_runs)
app.command("plot", help=runs.plot.__doc__)(runs.plot)
app.add_typer(data.app, name="data")
app.command("doctor", help=doctor.run.__doc__)(doctor.run)
app.add_typer(launch.app, name="launch")
app.command("schema", help=schema.run.__doc__)(schema.run)
app.add_typer(recipes.app, name="recipes")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        typer.echo(f"ftune {__version__}")
        for package in ("torch", "transformers", "trl", "peft", "accelerate", "datasets"):
            try:
                typer.echo(f"{package} {version(package)}")
            except PackageNotFoundError:
                typer.echo(f"{package} is not installed")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FTUNE_DEBUG", help="Show tracebacks and upstream warnings.")
    ] = False,
) -> None:
    os.environ["FTUNE_DEBUG"] = "1" if debug else "0"
    quiet_upstream(debug=debug)


def main() -> None:
    """Run the program; the exit code says how it ended (see the README)."""
    try:
        app()
    except FtuneError as error:
        if os.environ.get("FTUNE_DEBUG") == "1":
            raise
        print(f"error: {error}" if "\n" not in str(error) else f"errors:\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nstopped; nothing was being trained, so there is nothing to resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:  # the last resort: a fault of ftune's own, said in one line
        if os.environ.get("FTUNE_DEBUG") == "1":
            raise
        print(f"internal error: {type(error).__name__}: {error}\n'ftune --debug ...' shows where", file=sys.stderr)
        sys.exit(1)
