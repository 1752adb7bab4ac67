"""The folder of a run: opened with care, never overwritten by accident."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import Found, newest_valid, storage_errors, write_atomically
from ftune.core.errors import CheckpointError, DivergedError, RecipeError, StoppedError, StorageError
from ftune.core.held import held_by_another, hold, let_go
from ftune.core.paths import shown
from ftune.report.events import EventLog, UnwrittenLog

STATE, LOGS = "ftune.json", "logs"
FIRST_FILES = ("recipe.yaml", "recipe.resolved.json", STATE)
MAY_CHANGE = (
    "output_dir", "extends", "log", "checkpoint", "eval", "backend", "batch",
    "schedule.epochs", "schedule.max_steps", "schedule.iterations",
)  # fmt: skip
"""Recipe keys that a resumed run may have changed: they alter what is shown or kept, how long it goes on, or where it
computes. Whether a step still has as many rows is checked where that is known."""

_BUSY = "output_dir: {}: another process is training there; wait for its end, stop it, or give another output_dir=..."


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An open run folder and the checkpoint it goes on from, if any."""

    path: Path
    found: Found
    finished: bool
    """The run to be resumed has come to its end already."""
    writes: bool = True
    """Whether this process writes into it: of several, only the first does."""

    @classmethod
    def open(cls, path: Path, recipe: dict[str, Any], text: str, *, resume: bool, overwrite: bool) -> "RunFolder":
        """Make the folder, or take it up again.

        A new run needs an empty folder or `overwrite`, which removes only a folder that a run has made. A resumed run
        needs the recipe it was started with, but for MAY_CHANGE. Until `recording` ends, no other process may open it.
        Raises RecipeError, CheckpointError or StorageError.
        """
        if held_by_another(path / LOGS):
            raise RecipeError(_BUSY.format(shown(path)))
        started = (path / STATE).is_file()
        if path.exists() and not path.is_dir():
            raise RecipeError(f"output_dir: {shown(path)} is a file; give a folder")
        if started and resume:
            _check_same(path, recipe)
            folder = cls(path, newest_valid(path), finished=read_state(path) == "done")
            if not folder.finished:
                folder._hold()
                folder.write_json("recipe.resolved.json", recipe)
                folder.set_state("running")
            return folder
        if path.is_dir() and not _only_begun(path):
            if not (overwrite and started):
                raise RecipeError(_refusal(path, started=started))
            with storage_errors(path):
                shutil.rmtree(path)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, Found(), finished=False)
        write_atomically(path / "recipe.yaml", text)
        folder.write_json("recipe.resolved.json", recipe)
        folder.set_state("running")  # from here on the folder is a run
        folder._hold()
        return folder

    def _hold(self) -> None:
        logs = self.path / LOGS
        with storage_errors(logs):
            logs.mkdir(exist_ok=True)
        if not hold(logs):
            raise RecipeError(_BUSY.format(shown(self.path)))

    def write_json(self, name: str, content: Any) -> None:
        """Write a small JSON file into the folder, as a whole."""
        if not self.writes:
            return
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def set_state(self, state: str, **facts: object) -> None:
        """Say in `ftune.json` how the run stands: running, stopped, failed, diverged or done."""
        self.write_json(STATE, {"state": state, **facts})

    @contextmanager
    def recording(self) -> Iterator[EventLog]:
        """The run's event log; however the work inside ends, `ftune.json` and the last event say it."""
        if not self.writes:
            yield UnwrittenLog()
            return
        resume_step = self.found.step if (self.path / "events.jsonl").exists() else None
        with EventLog(self.path / "events.jsonl", resume_step=resume_step) as events:
            started = time.monotonic()
            state = "failed"
            try:
                yield events
                state = "done"
            except StoppedError:
                state = "stopped"
                raise
            except DivergedError:
                state = "diverged"
                raise
            finally:
                with (
                    suppress(StorageError) if state != "done" else nullcontext()
                ):  # the first failure is the one to tell
                    events.write("end", status=state, seconds=round(time.monotonic() - started, 1))
                    self.set_state(state)
                let_go(self.path / LOGS)


def read_state(path: Path) -> str:
    """The state of the run in a folder; empty when it holds none."""
    try:
        return str(json.loads((path / STATE).read_text(encoding="utf-8"))["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_command(path: Path) -> str:
    """The command whose run is in a folder, such as `sft`; empty where that cannot be told."""
    try:
        return str(json.loads((path / "recipe.resolved.json").read_text(encoding="utf-8"))["type"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Keys whose values differ between two resolved recipes: dotted key, old value, new value."""
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*old, *new]):
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += changes(before, after, f"{name}.")
        elif before != after:
            found.append((name, before, after))
    return found


def _only_begun(path: Path) -> bool:
    """Whether a folder is empty, or was left by a run that was killed before it had begun."""
    return all(file.name.removeprefix(".").removesuffix(".tmp") in FIRST_FILES for file in path.iterdir())


def _check_same(path: Path, recipe: dict[str, Any]) -> None:
    try:
        before = json.loads((path / "recipe.resolved.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(path)}: recipe.resolved.json cannot be read ({error}); start a new run"
        ) from None
    differing = [
        f"{name}: was {old!r}, is {new!r}"
        for name, old, new in changes(before, recipe)
        if not any(name == key or name.startswith(f"{key}.") for key in MAY_CHANGE)
    ]
    if differing:
        raise CheckpointError(
            f"{shown(path)}: cannot resume with another recipe ({'; '.join(differing)}); "
            f"undo the change, or start a new run with output_dir=..."
        )


def _refusal(path: Path, *, started: bool) -> str:
    if not started:
        return f"output_dir: {shown(path)} is not empty and holds no run of ftune; choose another folder"
    if read_state(path) == "done":
        return f"output_dir: {shown(path)} holds a finished run; use --overwrite to replace it, or output_dir=..."
    return f"output_dir: {shown(path)} holds a run; use --resume to go on, --overwrite to start anew, or output_dir=..."
