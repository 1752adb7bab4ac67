"""The root that all recipes share."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ftune.core.section import Section


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a recipe."""

    text: str
    """The recipe file as it was given."""
    command: str
    """The command that starts this run, as a person would type it."""
    resume: bool = False
    """Go on from the newest complete checkpoint."""
    overwrite: bool = False
    """Replace the run that is in the output folder."""


class Recipe(Section):
    """A whole recipe; a command's own file adds its `type` and its sections."""

    extends: str | list[str] | None = None
    """Recipes to start from, left to right; this file's values win. Maps merge, lists are replaced."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of initialisation, dropout, draws and the order of rows."""

    def resolved(self) -> dict[str, Any]:
        """All keys with their values, defaults included, as plain JSON."""
        return self.model_dump(mode="json")

    @abstractmethod
    def execute(self, options: RunOptions) -> None:
        """Do the work."""
