"""TensorBoard: a folder of the run."""

import shlex
from typing import Any

from ftune.core.paths import shown
from ftune.report.trackers.base import Setting, Shown, TrackedRun, Tracker


class Tensorboard(Tracker):
    """Files that the `tensorboard` program reads."""

    def open(self, run: TrackedRun) -> Shown:
        """A resumed run takes back what is drawn behind its checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        purged = None if run.resume_step is None else run.resume_step + 1
        self.writer: Any = SummaryWriter(str(folder), purge_step=purged)
        self.writer.add_text("recipe", _table(run.settings), run.resume_step or 0)
        return Shown(None, f"tensorboard --logdir {shlex.quote(shown(folder))}")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """On disk when it returns, as a run that is looked at may be killed."""
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)
        self.writer.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        self.writer.close()


def _table(settings: dict[str, Setting]) -> str:
    """A table in Markdown."""
    rows = (f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in settings.items())
    return "\n".join(["| key | value |", "|---|---|", *rows])
