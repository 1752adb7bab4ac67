"""The folder of a run, opened before anything else by the first process, and what is said of it."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftune.backends.ranks import Ranks
from ftune.core.checkpoints import Found, write_atomically
from ftune.core.errors import FtuneError, LaunchError
from ftune.core.paths import shown
from ftune.core.say import Say
from ftune.recipes.base import Recipe, RunOptions
from ftune.report.run_folder import LOGS, Opening, RunFolder, check_writable, run_there, what_opening_means

APPEARS_S = 60.0
"""How long a network file system may take to show another node what the first process wrote."""


def open_run(
    recipe: Recipe, path: Path, options: RunOptions, say: Say, unit: str, ranks: Ranks | None = None
) -> RunFolder | None:
    """The run's folder, or None where the run to be resumed has finished; `unit` is what its checkpoints count.

    Raises RecipeError, CheckpointError, StorageError, and LaunchError where not all processes see the folder.
    """
    ranks = ranks or Ranks()
    opened: list[RunFolder] = []

    def open_here() -> dict[str, Any] | None:
        folder = _open(recipe, path, options, say, unit)
        if folder is None:
            return None
        opened.append(folder)
        found = folder.found
        where = str(found.path) if found.path else None
        return {"checkpoint": where, "step": found.step, "facts": found.facts, "mark": _mark(folder, ranks)}

    seen = ranks.from_first(open_here)
    if seen is None:
        return None
    if opened:
        return opened[0]
    found = Found(Path(seen["checkpoint"]) if seen["checkpoint"] else None, seen["step"], seen["facts"])
    _check_shared(path, seen["mark"])
    return RunFolder(path, found, Opening.RESUMED if found.path else Opening.NEW, writes=False)


@contextmanager
def reported(folder: RunFolder, say: Say) -> Iterator[None]:
    """However the work inside ends, the run's page tells it. To be opened before the folder's `recording`."""
    try:
        yield
    finally:
        for made, aside in folder.set_aside:
            again = f"ftune {'eval' if made.name == 'eval' else 'merge'} {shown(folder.path)}"
            say.line(f"{shown(made)} is of the result before and is called {aside.name} now; of this one: {again}")
        if folder.writes:
            from ftune.report.page.write import write_report_page

            try:
                write_report_page(folder.path)
            except FtuneError as error:
                say.warning(f"the page of the run was not written: {error}")


def _open(recipe: Recipe, path: Path, options: RunOptions, say: Say, unit: str) -> RunFolder | None:
    folder = RunFolder.open(path, recipe.resolved(), options.text, resume=options.resume, overwrite=options.overwrite)
    told = _told(folder.opening, path, resume=options.resume)
    if folder.opening is Opening.FINISHED:
        say.result(told)
        return None
    if told:
        say.line(told)
    if folder.opening in (Opening.RESUMED, Opening.LENGTHENED):
        say.line(f"resumed from {unit} {folder.found.step}")
    for damaged, problems in folder.found.damaged:
        say.warning(f"damaged checkpoint kept as {shown(damaged)}: {'; '.join(problems)}")
    return folder


def look_at(path: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> str:
    """What the run would say of its folder, for a dry run; nothing where it is what was asked for.

    A folder that is taken is no error yet: a dry run ends with what would be trained, and with what the run will need.
    Raises RecipeError, CheckpointError and StorageError, as the run would.
    """
    opening = what_opening_means(path, recipe.resolved(), resume=resume, overwrite=overwrite)
    if opening is not Opening.FINISHED:
        check_writable(path)
    return _told(opening, path, resume=resume)


def _told(opening: Opening, path: Path, *, resume: bool) -> str:
    """What is said of a folder; nothing where it is what was asked for."""
    if opening is Opening.NEW and resume:
        return f"{shown(path)} holds no run to resume; a new one begins"
    if opening is Opening.FINISHED:
        return f"{shown(path)} is finished, nothing to do; --overwrite starts anew"
    if opening is Opening.TAKEN:
        return f"this is what would be trained, but {shown(path)} holds {run_there(path)}, or output_dir=..."
    if opening is Opening.LENGTHENED:
        return f"{shown(path)} was finished and goes on for longer"
    if opening is Opening.ANEW:
        return f"{shown(path)} holds a run that failed and left neither checkpoint nor result; it begins anew"
    return ""


def _mark(folder: RunFolder, ranks: Ranks) -> str:
    """What the other processes have to find in the folder."""
    if ranks.count == 1:
        return ""
    mark = secrets.token_hex(8)
    write_atomically(folder.path / LOGS / "mark", mark)
    return mark


def _check_shared(path: Path, mark: str) -> None:
    until = time.monotonic() + APPEARS_S
    while time.monotonic() < until:
        try:
            if (path / LOGS / "mark").read_text(encoding="utf-8") == mark:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise LaunchError(
        f"output_dir: {shown(path)}: what the first process wrote there cannot be seen from this one; "
        f"with several nodes it has to be on storage that all of them share"
    )
