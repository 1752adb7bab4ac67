"""Trackio: a database on this machine, or a Space."""

import os
import sys
from contextlib import redirect_stdout
from typing import Any

from ftune.report.trackers.base import PROJECT, Shown, TrackedRun, Tracker


class Trackio(Tracker):
    """TRACKIO_PROJECT, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL and TRACKIO_DIR are minded."""

    def open(self, run: TrackedRun) -> Shown:
        """A run that goes on is found by its name."""
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        resume = "allow" if run.known_as else "never"
        with redirect_stdout(sys.stderr):  # stdout is for results
            self.run: Any = trackio.init(
                project=project, name=run.known_as or run.name, config=run.settings, resume=resume, embed=False
            )
        return Shown(self.run.name, f"run {self.run.name} of project {project}")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Sent by a thread of trackio's."""
        self.run.log(numbers, step=step)

    def close(self, status: str) -> None:
        """Waits until everything is sent."""
        with redirect_stdout(sys.stderr):
            self.run.finish()
