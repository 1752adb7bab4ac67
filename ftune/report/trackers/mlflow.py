"""MLflow."""

import os
import time
from typing import Any

from ftune.report.trackers.base import PROJECT, Setting, Shown, TrackedRun, Tracker

STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
AT_ONCE = 100
"""Parameters that a server takes in one request."""
LONGEST = 500
"""Characters of a parameter that every server takes."""


class Mlflow(Tracker):
    """MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are minded."""

    def open(self, run: TrackedRun) -> Shown:
        """A new run of the experiment, or the one that goes on, where the server still has it."""
        from mlflow import MlflowClient, get_tracking_uri

        self.client: Any = MlflowClient()
        if run.known_as is None or not self._goes_on(run.known_as):
            made = self.client.create_run(self._experiment(), run_name=run.name)
            self.run = str(made.info.run_id)
            self._tell(run.settings)
        return Shown(self.run, f"run {run.name} ({self.run}) at {get_tracking_uri()}")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """One request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run, [Metric(name, number, now, step) for name, number in numbers.items()])

    def close(self, status: str) -> None:
        """Nothing is left to send; the run gets its state."""
        self.client.set_terminated(self.run, STATUS[status])

    def _goes_on(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(run, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self.run = run
        return True

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def _tell(self, settings: dict[str, Setting]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:LONGEST]) for name, value in settings.items()]
        for start in range(0, len(params), AT_ONCE):
            self.client.log_batch(self.run, params=params[start : start + AT_ONCE])
