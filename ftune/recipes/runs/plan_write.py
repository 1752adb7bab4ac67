"""A recipe that extends another one with the changes that make it fit."""

import os
from pathlib import Path
from typing import Any

import yaml

from ftune.core.checkpoints import storage_errors, write_atomically
from ftune.core.errors import RecipeError
from ftune.core.overrides import apply_overrides
from ftune.core.paths import shown
from ftune.core.yaml import Document
from ftune.recipes.load import Loaded, load_recipe
from ftune.recipes.runs.plan_changes import command_of
from ftune.recipes.runs.plan_fit import Fitted


def write_recipe(loaded: Loaded, fitted: Fitted, path: Path) -> str:
    """Write the new recipe, load it again and give its path as a person would type it.

    What the command line changed goes into it too. Raises RecipeError where a file is there already, where the recipe
    does not fit with any change, and where what was changed cannot be said in a file that extends another.
    """
    if not fitted.plan.fits:
        raise RecipeError(f"--write: {path}: not written, since no change that is known makes the recipe fit")
    if path.exists():
        raise RecipeError(f"--write: {path} is there already; name another file")
    document = Document({}, {}, [])
    words = [word for change in fitted.changes for word in change.overrides]
    apply_overrides(document, [*loaded.overrides, *words])
    if document.faults:
        raise RecipeError(
            f"--write: {document.faults[0].message}: a recipe that extends another cannot change a part of its lists; "
            f"change {loaded.path} itself"
        )
    above = os.path.relpath(loaded.path.resolve(), path.resolve().parent)
    command = command_of(fitted.plan.recipe)
    content: dict[str, Any] = {"extends": above, "type": command, **_plain(document.value)}
    names = ", ".join(change.name for change in fitted.changes) or "no change"
    head = f"# {loaded.path.name}, made to fit by 'ftune plan --fit': {names}\n"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    load_recipe(command, path, elsewhere=tuple(type(loaded.recipe).model_fields))
    return shown(path)


def _plain(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
