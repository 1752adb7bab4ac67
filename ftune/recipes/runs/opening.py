"""The folder of a run, opened before anything else, and what is said of it."""

from pathlib import Path

from ftune.core.paths import shown
from ftune.core.say import Say
from ftune.recipes.base import Recipe, RunOptions
from ftune.report.run_folder import RunFolder, read_state


def open_run(recipe: Recipe, path: Path, options: RunOptions, say: Say, unit: str) -> RunFolder | None:
    """The run's folder, or None where the run to be resumed has finished; `unit` is what its checkpoints count.

    Raises RecipeError, CheckpointError and StorageError.
    """
    begun = bool(read_state(path))
    folder = RunFolder.open(path, recipe.resolved(), options.text, resume=options.resume, overwrite=options.overwrite)
    if options.resume and begun:
        say.line(f"resumed from {unit} {folder.found.step}")
    if folder.finished:
        say.result(f"{shown(path)} is finished, nothing to do; --overwrite starts anew")
        return None
    for damaged, problems in folder.found.damaged:
        say.warning(f"damaged checkpoint kept as {shown(damaged)}: {'; '.join(problems)}")
    return folder
