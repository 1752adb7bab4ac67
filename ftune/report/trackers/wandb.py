"""Weights & Biases."""

import os
from pathlib import Path
from typing import Any

from ftune.core.paths import shown
from ftune.report.trackers.base import PROJECT, Shown, TrackedRun, Tracker


class Wandb(Tracker):
    """WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and the other variables of wandb are minded."""

    def open(self, run: TrackedRun) -> Shown:
        """Asks nobody for a key: nobody may be there. Offline, what it writes lies in the run's folder."""
        import wandb

        made = wandb.setup().settings
        if made.mode in (None, "online", "shared") and not wandb.login(prompt=False):
            raise PermissionError(
                "you are not logged in; set WANDB_API_KEY or call 'wandb login', or set WANDB_MODE=offline"
            )
        settings = wandb.Settings(console="off", silent=True, x_disable_meta=True)  # its file holds the command line
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run.known_as or os.environ.get("WANDB_RUN_ID"),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=run.settings,
            settings=settings,
        )
        self.run.define_metric("*", step_metric="step")  # wandb's own counter never goes back, a resumed run may
        offline = f"wandb sync {shown(Path(self.run.settings.sync_dir))}"
        return Shown(self.run.id, offline if self.run.offline else str(self.run.url))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Sent by a process of wandb's."""
        self.run.log({**numbers, "step": step})

    def close(self, status: str) -> None:
        """Waits until everything is sent."""
        self.run.finish(exit_code=0 if status == "done" else 1)
