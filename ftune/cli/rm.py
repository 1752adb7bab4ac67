"""`ftune rm`."""

from ftune.cli.sft import DryRun, Overrides, Overwrite, RecipePath, Resume, run_recipe


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a reward model on preferences, or a classifier on texts with classes.

    Example: ftune rm recipes/rm.yaml data.train=pairs.jsonl
    """
    run_recipe("rm", recipe, overrides, dry_run=dry_run, resume=resume, overwrite=overwrite)
