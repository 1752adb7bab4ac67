"""The trackers of a run, from its first event to its end."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ftune.core.errors import StoppedError
from ftune.core.say import Say
from ftune.report.events import EventLog, redact
from ftune.report.run_folder import LOGS, Opening, RunFolder
from ftune.report.trackers.base import Setting, TrackedRun, Tracker
from ftune.report.trackers.mlflow import Mlflow
from ftune.report.trackers.sending import Sender
from ftune.report.trackers.tensorboard import Tensorboard
from ftune.report.trackers.trackio import Trackio
from ftune.report.trackers.wandb import Wandb

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": Tensorboard, "wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}
"""By the names of `log.trackers`."""
LAST_WORDS_S = {"done": 30.0, "stopped": 5.0, "failed": 5.0}
"""How long trackers may take for what is left; who stops a run may soon kill it."""


class Trackers:
    """The ways to all trackers of a run."""

    def __init__(self, senders: Sequence[Sender] = ()) -> None:
        """There may be none."""
        self.senders = senders

    def follow(self, events: EventLog) -> None:
        """Send on what is written from now on."""
        for sender in self.senders:
            events.listeners.append(sender.send)


@contextmanager
def tracking(names: Sequence[str], folder: RunFolder, recipe: dict[str, Any], say: Say) -> Iterator[Trackers]:
    """Trackers that are told how the work inside ends, when the run's own files tell it already.

    Only the process that writes the run's folder has any. To be opened before the folder's `recording`.
    """
    if not names or not folder.writes:
        yield Trackers()
        return
    goes_on = folder.opening in (Opening.RESUMED, Opening.LENGTHENED)
    step = folder.found.step if goes_on else None  # 0 where it was killed before its first checkpoint
    run = TrackedRun(folder.path, settings_of(recipe), step)
    trackers = Trackers([Sender(name, TRACKERS[name](), run, folder.path / LOGS, say) for name in dict.fromkeys(names)])
    status = "failed"
    try:
        yield trackers
        status = "done"
    except StoppedError:
        status = "stopped"
        raise
    finally:
        for sender in trackers.senders:
            sender.end(status)
        seconds = LAST_WORDS_S[status]
        until = time.monotonic() + seconds
        for sender in trackers.senders:
            sender.wait(until, seconds)


def settings_of(recipe: dict[str, Any]) -> dict[str, Setting]:
    """A resolved recipe as dotted keys and plain values, without secrets."""
    found: dict[str, Setting] = {}

    def gather(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                gather(f"{name}.{key}" if name else key, item)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                gather(f"{name}.{index}", item)
        elif value is None or isinstance(value, bool | int | float):
            found[name] = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[name] = redact(f"{name}={text}").removeprefix(f"{name}=")  # the name tells a key from a revision

    gather("", recipe)
    return found
