"""A run's events on their way to a tracker, in a thread: training never waits for a service, nor ends with it."""

import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from ftune.core.checkpoints import write_atomically
from ftune.core.say import Say
from ftune.report.events import Event, redact
from ftune.report.trackers.base import TrackedRun, Tracker

GROUPS = {"step": "train", "eval": "eval"}
"""The events with numbers to draw, and what their names begin with."""


class Sender:
    """The way to one tracker."""

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun, notes: Path, say: Say) -> None:
        """Opens the tracker, in the thread; a file among `notes` keeps what the service calls the run."""
        self.name, self._tracker, self._run, self._say = name, tracker, run, say
        self._note = notes / f"tracker-{name}"
        self._given_up = False
        self._events: SimpleQueue[Event | str] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Let the tracker have an event, when it gets to it."""
        if event["kind"] in GROUPS and self._thread.is_alive():
            self._events.put(event)

    def end(self, status: str) -> None:
        """No more comes; the run is `done`, `stopped` or `failed`."""
        self._events.put(status)

    def wait(self, until: float, seconds: float) -> None:
        """Wait for the tracker to have everything, until that time on the monotonic clock, in so many seconds."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._given_up = True
            self._say.warning(
                f"log.trackers: {self.name} has not taken everything in {seconds:g} s, and nobody waits any longer; "
                "all curves are in events.jsonl"
            )

    def _work(self) -> None:
        try:
            found = self._tracker.open(replace(self._run, known_as=self._known_as()))
            if found.known_as:
                write_atomically(self._note, found.known_as)
            if not self._given_up:
                self._say.line(f"{self.name}: {redact(found.where)}")
            while not isinstance(event := self._events.get(), str):
                self._tracker.log(event["step"], numbers_of(event))
            self._tracker.close(event)
        except Exception as error:
            if self._given_up:  # it is said already, and this process has gone on to its end
                return
            words = redact(" ".join(str(error).split())) or type(error).__name__
            self._say.warning(
                f"log.trackers: {self.name} gets no curves from here on, and the run goes on: {words[:400]}; all of "
                "them are in events.jsonl"
            )

    def _known_as(self) -> str | None:
        if self._run.resume_step is None or not self._note.is_file():
            return None
        return self._note.read_text(encoding="utf-8").strip() or None


def numbers_of(event: Event) -> dict[str, float]:
    """What of an event can be drawn: `train/loss`, `train/seconds/rollout`, `eval/loss`."""
    found: dict[str, float] = {}

    def gather(name: str, value: object) -> None:
        if isinstance(value, dict):
            for inner, item in value.items():
                gather(f"{name}/{inner}", item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)

    gather(GROUPS[event["kind"]], {name: value for name, value in event.items() if name not in ("step", "non_finite")})
    return found
