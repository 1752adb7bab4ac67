"""The recipes that come with ftune."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from ftune.core.errors import RecipeError
from ftune.core.suggest import did_you_mean

_PACKAGE = Path(__file__).parents[1]


def recipes_folder() -> Path:
    """Where the shipped recipes are: in the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def names() -> Iterator[tuple[str, str]]:
    """Name and first comment line of each recipe; a leading underscore keeps a file out of the list."""
    folder = recipes_folder()
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("")
        if not any(part.startswith("_") for part in name.parts) and "data" not in name.parts:
            yield str(name), _summary(path.read_text(encoding="utf-8"))


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe. Raises RecipeError with the nearest name."""
    path = recipes_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = [known for known, _ in names()]
        raise RecipeError(f"no recipe '{name}' comes with ftune{did_you_mean(name, known)}")
    return path


def copy_recipe(name: str, target: Path) -> list[Path]:
    """Copy a shipped recipe to `target`, with the shipped rows that it reads in `data/` beside it.

    The line that names the schema stays behind: it holds only where the shipped recipes are. Rows that are there, as
    beside a recipe that was copied before, are left. Returns what was written. Raises RecipeError when a file is there
    already.
    """
    text = find_recipe(name).read_text(encoding="utf-8").replace("../data/", "data/")
    text = "".join(line for line in text.splitlines(keepends=True) if "yaml-language-server" not in line)
    folder = recipes_folder()
    shipped = [path for path in sorted(folder.glob("data/*/*")) if str(path.relative_to(folder)) in text]
    rows = {target.parent / path.relative_to(folder): path for path in shipped}
    rows = {to: path for to, path in rows.items() if not (to.is_file() and to.read_bytes() == path.read_bytes())}
    if target.exists():
        raise RecipeError(f"{target}: there already; choose another name or remove it")
    if other := next((to for to in rows if to.exists()), None):
        raise RecipeError(f"{other}: there already, and not the rows of this recipe; copy it into another folder")
    for to in (target, *rows):
        to.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    for to, path in rows.items():
        shutil.copyfile(path, to)
    return [target, *rows]


def _summary(text: str) -> str:
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and "$schema" not in line]
    return comments[0] if comments else ""
