"""`ftune ppo`."""

from typing import Annotated

import typer

from ftune.cli.sft import DryRun, Overrides, Overwrite, RecipePath, Resume, run_recipe


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    reward_model: Annotated[
        str | None,
        typer.Option("--reward-model", metavar="PATH_OR_ID", help="A run of 'ftune rm', a folder or a hub id."),
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a policy on rewards, near its reference (PPO).

    Example: ftune ppo recipes/ppo.yaml --reward-model runs/rm
    """
    given = [*(overrides or []), *([f"reward_model={reward_model}"] if reward_model else [])]
    run_recipe("ppo", recipe, given, dry_run=dry_run, resume=resume, overwrite=overwrite)
