"""A run as it lies in its folder, whatever is missing there: what reports, lists and charts are made from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ftune.core.errors import RecipeError
from ftune.core.paths import shown
from ftune.report.events import Event, read_events
from ftune.report.run_folder import STATE, holds_run, read_state

LOG_TAIL_BYTES = 2**20
"""Of a log, only so much of its end is read."""

LARGEST = 1e300
"""Numbers beyond are taken as infinite: differences of them would be."""


class Series(NamedTuple):
    """One value a step."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run. Missing and broken files count as empty; only `events.jsonl` must be whole."""

    path: Path
    name: str
    state: str
    """running, stopped, failed, diverged or done."""
    events: list[Event]
    """The history that counts. A `step` or `eval` without an integer `step` is left out."""

    def of_kind(self, *kinds: str) -> list[Event]:
        """The events of some kinds, one kind after the other."""
        return [event for kind in kinds for event in self._by_kind.get(kind, ())]

    def series(self, kind: str, field: str) -> Series:
        """The finite values of a field in the events of a kind, ordered by step."""
        if (kind, field) not in self._series:
            found = [
                (event["step"], float(value))
                for event in self._by_kind.get(kind, ())
                if (value := finite(event.get(field))) is not None
            ]
            found.sort(key=itemgetter(0))
            self._series[kind, field] = Series([step for step, _ in found], [value for _, value in found])
        return self._series[kind, field]

    def last(self, kind: str) -> Event:
        """The last event of a kind; empty when there is none."""
        return (self._by_kind.get(kind) or [{}])[-1]

    @cached_property
    def _by_kind(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event["kind"], []).append(event)
        return found

    @cached_property
    def _series(self) -> dict[tuple[str, str], Series]:
        return {}

    @property
    def kind(self) -> str:
        """The command that made it: sft, rm, ppo, ..."""
        return str(self.last("start").get("recipe") or dig(self.recipe, "type") or "")

    @property
    def iterates(self) -> bool:
        """Whether a step of it is an iteration of PPO."""
        return self.kind == "ppo"

    @property
    def steps(self) -> int:
        """The last step that was told of."""
        return max((event["step"] for event in self.of_kind("step", "eval")), default=0)

    @cached_property
    def seconds(self) -> float:
        """Time in which the run ran: from each start or resume to the last event before the next one."""
        starts = [number for number, event in enumerate(self.events) if event["kind"] in ("start", "resumed")]
        stretches = pairwise(sorted({0, *starts, len(self.events)})) if self.events else ()
        moments = ((_moment(self.events[first]), _moment(self.events[end - 1])) for first, end in stretches)
        return sum(max((last - first).total_seconds(), 0.0) for first, last in moments if first and last)

    @property
    def last_moment(self) -> datetime | None:
        """When it last gave a sign."""
        return _moment(self.events[-1]) if self.events else None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Every value of the recipe."""
        return self.read("recipe.resolved.json")

    @cached_property
    def data(self) -> dict[str, Any]:
        """Counts of the rows, by part."""
        return self.read("data.json") or self.last("data")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Machine and versions."""
        return self.read("environment.json")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What `ftune eval` found."""
        return self.read("eval/eval.json")

    @property
    def result_look(self) -> Event:
        """How the result did on held-out rows: the iteration that PPO kept, else the last look; empty without one."""
        kept = self.last("kept").get("step")
        return next((event for event in self.of_kind("eval") if event["step"] == kept), self.last("eval"))

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder that holds an object."""
        try:
            content = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The objects in a JSON Lines file of the folder; torn lines are passed over."""
        rows = []
        for line in self.text(name).split("\n"):  # not at the line separators of Unicode, which texts may hold
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
        return [row for row in rows if isinstance(row, dict)]

    def text(self, name: str) -> str:
        """A text file of the folder; empty when it cannot be read."""
        try:
            return (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def warnings(self) -> list[str]:
        """What the first process warned of, each once, in order."""
        try:
            with (self.path / "logs" / "rank0.txt").open("rb") as file:
                file.seek(max(file.seek(0, 2) - LOG_TAIL_BYTES, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        said = (line.removeprefix("warning: ") for line in lines if line.startswith("warning: "))
        return list(dict.fromkeys(said))


def read_run(path: Path) -> RunRecord:
    """Read a run. Raises RecipeError where there is none, DataError where its events are damaged."""
    if not holds_run(path):
        raise RecipeError(f"{shown(path)} is no run of ftune: give a folder with {STATE}, as 'ftune sft' writes it")
    events = read_events(path / "events.jsonl") if (path / "events.jsonl").is_file() else []
    return RunRecord(path, path.resolve().name, read_state(path) or "unknown", list(_usable(events)))


def _usable(events: list[Event]) -> Iterator[Event]:
    """Events that have a step where they tell of progress."""
    for event in events:
        step = event.get("step")
        placed = type(step) is int and 0 <= step < 2**53
        if placed or event["kind"] not in ("step", "eval", "skipped", "resumed"):
            yield event


def _moment(event: Event) -> datetime | None:
    """When it happened; None where its time is damaged."""
    try:
        moment = datetime.fromisoformat(event["time"])
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def dig(values: object, *keys: str) -> Any:
    """What nested dictionaries hold; None where a key is missing or something else is in the way."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def finite(value: object) -> float | None:
    """A number as it is; None for anything else, for true and false, and for what arithmetic could not bear."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < LARGEST else None  # false for NaN too
