"""What a service that shows curves is asked to do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

Setting = str | int | float | bool | None

PROJECT = "ftune"
"""Under which services gather runs, where no variable of theirs names another project."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run whose curves are shown."""

    folder: Path
    settings: dict[str, Setting]
    """Every key of the recipe with its value, without secrets."""
    resume_step: int | None = None
    """The step from which it goes on; None where it begins."""
    known_as: str | None = None
    """What the service calls the run that goes on; None where it has never heard of it."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.folder.absolute().name


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that a service shows."""

    known_as: str | None
    """What the service calls it."""
    where: str
    """Where a person finds it."""


class Tracker(ABC):
    """One service. All calls come from one thread, and what they raise ends the tracking alone."""

    @abstractmethod
    def open(self, run: TrackedRun) -> Shown:
        """Begin to show a run, or go on with it."""

    @abstractmethod
    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Show numbers of a step."""

    @abstractmethod
    def close(self, status: str) -> None:
        """Send what is left; the run is `done`, `stopped` or `failed`."""
