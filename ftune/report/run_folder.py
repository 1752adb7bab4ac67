"""The folder of a run: opened with care, never overwritten by accident."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, count
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import Found, facts_of, newest_valid, storage_errors, write_atomically
from ftune.core.errors import CheckpointError, DivergedError, RecipeError, StoppedError, StorageError
from ftune.core.held import held_by_another, hold, let_go
from ftune.core.paths import shown
from ftune.report.events import EventLog, UnwrittenLog
from ftune.report.recipe_changes import forbidden_changes, trains_longer

STATE, LOGS = "ftune.json", "logs"
FIRST_FILES = ("recipe.yaml", "recipe.resolved.json", STATE)
UNTRAINED_FILES = frozenset(
    {*FIRST_FILES, LOGS, "environment.json", "data.json", "events.jsonl", "report.html", "samples.jsonl"}
)
"""What a run leaves that fails before its first checkpoint and its result."""

_BUSY = "output_dir: {}: another process is training there; wait for its end, stop it, or give another output_dir=..."


class Opening(Enum):
    """What opening its folder means for a run."""

    NEW = "there is no run yet"
    ANEW = "the run there has failed and left no checkpoint and no result"
    REPLACED = "the run there goes, as was asked for"
    RESUMED = "the run there goes on"
    LENGTHENED = "the run there had come to its end, and goes on for longer"
    FINISHED = "the run to be resumed has come to its end already"
    TAKEN = "there is a run, and neither going on with it nor replacing it was asked for"


Saved = tuple[int | None, list[int]]
"""The step of the last checkpoint, and which folders the result is."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a finished run was."""

    recipe: dict[str, Any]
    saved: Saved


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An open run folder and the checkpoint it goes on from, if any."""

    path: Path
    found: Found
    opening: Opening
    finished: Finished | None = None
    """The run as it was, where it is lengthened."""
    writes: bool = True
    """Whether this process writes into it: of several, only the first does."""
    set_aside: list[tuple[Path, Path]] = field(default_factory=list)
    """What was made of a result before, and what it is called since there is another one."""

    @classmethod
    def open(cls, path: Path, recipe: dict[str, Any], text: str, *, resume: bool, overwrite: bool) -> "RunFolder":
        """Make the folder, or take it up again.

        A new run needs an empty folder, one whose run has failed untrained, or `overwrite`, which removes only a
        folder that a run has made. A resumed run needs the recipe it was started with, but for MAY_CHANGE. Until
        `recording` ends, no other process may open it. Raises RecipeError, CheckpointError or StorageError.
        """
        opening = what_opening_means(path, recipe, resume=resume, overwrite=overwrite)
        if opening is Opening.FINISHED:
            return cls(path, Found(), opening)
        if opening is Opening.TAKEN:
            raise RecipeError(f"output_dir: {shown(path)} holds {run_there(path)}, or output_dir=...")
        if opening in (Opening.RESUMED, Opening.LENGTHENED):
            _hold(path)
            found = newest_valid(path)
            finished = Finished(_recipe_of(path), _saved(path)) if opening is Opening.LENGTHENED else None
            if finished and found.path is None:
                let_go(path / LOGS)
                raise CheckpointError(_nothing_to_go_on_from(path))
            folder = cls(path, found, opening, finished)
            folder.write_json("recipe.resolved.json", recipe)
            folder.set_state("running")
            return folder
        with storage_errors(path):
            if opening is Opening.REPLACED:
                shutil.rmtree(path)
            elif opening is Opening.ANEW:
                _remove_untrained(path)
            path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, Found(), opening)
        write_atomically(path / "recipe.yaml", text)
        folder.write_json("recipe.resolved.json", recipe)
        folder.set_state("running")  # from here on the folder is a run
        _hold(path)
        return folder

    def write_json(self, name: str, content: Any) -> None:
        """Write a small JSON file into the folder, as a whole."""
        if not self.writes:
            return
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def set_state(self, state: str, **facts: object) -> None:
        """Say in `ftune.json` how the run stands: running, stopped, failed, diverged or done."""
        self.write_json(STATE, {"state": state, **facts})

    def fail(self, state: str = "failed") -> None:
        """Say that the run has not come to its end; one that is lengthened is as finished as before until it saves."""
        if self.finished is not None and _saved(self.path) == self.finished.saved:
            self.write_json("recipe.resolved.json", self.finished.recipe)
            state = "done"
        self.set_state(state)

    def _finish(self) -> None:
        """The state; and what was made of a result before, a merged model or an evaluation, gets another name."""
        for made in _made_of_result(self.path):
            names = (
                made.with_name(f"{made.name}.before{suffix}") for suffix in chain([""], map("-{}".format, count(2)))
            )
            with storage_errors(made):
                self.set_aside.append((made, made.rename(next(path for path in names if not os.path.lexists(path)))))
        self.set_state("done")

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
                    if state == "done":
                        self._finish()
                    else:
                        self.fail(state)
                let_go(self.path / LOGS)


def what_opening_means(path: Path, recipe: dict[str, Any], *, resume: bool, overwrite: bool) -> Opening:
    """What `RunFolder.open` will do; nothing is written. Raises RecipeError, CheckpointError or StorageError."""
    with storage_errors(path):
        if held_by_another(path / LOGS):
            raise RecipeError(_BUSY.format(shown(path)))
        if path.exists() and not path.is_dir():
            raise RecipeError(f"output_dir: {shown(path)} is a file; give a folder")
        if not holds_run(path):
            if path.is_dir() and not _only_begun(path):
                raise RecipeError(
                    f"output_dir: {shown(path)} is not empty and holds no run of ftune; choose another folder"
                )
            return Opening.NEW
        if resume:
            return _resuming(path, recipe)
        if _only_begun(path):
            return Opening.NEW
        if overwrite:
            return Opening.REPLACED
        return Opening.ANEW if _failed_untrained(path) else Opening.TAKEN


def check_writable(path: Path) -> None:
    """Whether a run could write into a folder, which need not exist, as its rights say it: nothing is tried.

    Raises StorageError.
    """
    with storage_errors(path):
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            code = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code))


def holds_run(path: Path) -> bool:
    """Whether a run has made a folder: a model or a checkpoint has an `ftune.json` too, which lists its files."""
    file = path / STATE
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return file.is_file()  # broken, and still a run's
    return not (isinstance(content, dict) and "files" in content)


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


def _hold(path: Path) -> None:
    """Let no other process open the folder. Raises RecipeError where one has, and StorageError."""
    logs = path / LOGS
    with storage_errors(logs):
        logs.mkdir(exist_ok=True)
    if not hold(logs):
        raise RecipeError(_BUSY.format(shown(path)))


def _only_begun(path: Path) -> bool:
    """Whether a folder is empty, or was left by a run that was killed before it had begun."""
    return all(file.name.removeprefix(".").removesuffix(".tmp") in FIRST_FILES for file in path.iterdir())


def _failed_untrained(path: Path) -> bool:
    """Whether the run there has failed, and left nothing that was trained nor anything that ftune does not know."""
    return read_state(path) == "failed" and all(
        file.name.removeprefix(".").removesuffix(".tmp") in UNTRAINED_FILES for file in path.iterdir()
    )


def _remove_untrained(path: Path) -> None:
    """Remove what `_failed_untrained` has seen, the state last."""
    for file in sorted(path.iterdir(), key=lambda file: file.name == STATE):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink()


def _resuming(path: Path, recipe: dict[str, Any]) -> Opening:
    before = _recipe_of(path)
    if differing := forbidden_changes(before, recipe):
        if _failed_untrained(path):
            return Opening.ANEW
        raise CheckpointError(
            f"{shown(path)}: cannot resume with another recipe ({'; '.join(differing)}); "
            f"undo the change, or start a new run with output_dir=..."
        )
    if read_state(path) != "done":
        return Opening.RESUMED
    last = _last_step(path)
    if not trains_longer(before, recipe, last or 0):
        return Opening.FINISHED
    if last is None:
        raise CheckpointError(_nothing_to_go_on_from(path))
    if guard := facts_of(path / f"checkpoint-{last}").get("ended_by"):
        raise CheckpointError(_ended(path, last, guard))
    return Opening.LENGTHENED


def _recipe_of(path: Path) -> dict[str, Any]:
    try:
        recipe: dict[str, Any] = json.loads((path / "recipe.resolved.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(path)}: recipe.resolved.json cannot be read ({error}); start a new run"
        ) from None
    return recipe


def _last_step(path: Path) -> int | None:
    """The highest step of the checkpoints, whole or not."""
    names = (folder.name.removeprefix("checkpoint-") for folder in path.glob("checkpoint-*"))
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _saved(path: Path) -> Saved:
    return _last_step(path), [(path / name).stat().st_ino for name in ("adapter", "model") if (path / name).is_dir()]


def _made_of_result(path: Path) -> list[Path]:
    """What `ftune eval` and `ftune merge` have made of a run's result, in its folder."""
    made = [path / name for name in ("eval", "merged", "gguf")]
    quantised = [folder for folder in sorted(path.glob("merged-*")) if "." not in folder.name]
    return [folder for folder in (*made, *quantised) if folder.is_dir()]


def _nothing_to_go_on_from(path: Path) -> str:
    whole = (path / "model").is_dir()
    how = "model.path={0}/model" if whole else "ftune merge {0}, then model.path={0}/merged"
    return (
        f"{shown(path)}: the run is finished and holds no whole checkpoint, so it cannot go on for longer; "
        f"train its result in a new run: {how.format(shown(path))} output_dir=..."
    )


def _ended(path: Path, step: int, guard: str) -> str:
    start = f"model.path={shown(path)}/model" if (path / "model").is_dir() else f"model.adapter={shown(path)}"
    return (
        f"{shown(path)}: a guard ended the run at iteration {step} ({guard}), so more iterations would change nothing; "
        f"train its result in a new run: {start} output_dir=..., or start anew with another 'guard'"
    )


def run_there(path: Path) -> str:
    """What kind of run a folder holds, and what its command is to be given."""
    if read_state(path) == "done":
        return "a finished run; use --overwrite to replace it"
    return "a run; use --resume to go on, --overwrite to start anew"
