"""Trackers get the curves of a run, in a thread that it never waits for, and whatever happens to them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ftune.core.errors import StoppedError
from ftune.core.say import Say
from ftune.report.run_folder import RunFolder
from ftune.report.trackers import tracking as module
from ftune.report.trackers.base import Shown, TrackedRun, Tracker
from ftune.report.trackers.tensorboard import Tensorboard
from ftune.report.trackers.tracking import settings_of, tracking
from tests.conftest import Done
from tests.recipes.ppo_recipes import ppo_recipe

KEY = "hf_abcdefghijklmnopqrstuvwx"


class Notebook(Tracker):
    """Writes down what it is told."""

    told: list[Any]

    def open(self, run: TrackedRun) -> Shown:
        """Names the run, and says under which name it knew it."""
        self.told.append((run.name, run.resume_step, run.known_as, run.settings["seed"]))
        return Shown("n1", "in memory")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Keeps them."""
        self.told.append((step, numbers))

    def close(self, status: str) -> None:
        """Keeps it."""
        self.told.append(status)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `tensorboard` is told, which is a notebook here."""
    told: list[Any] = []
    monkeypatch.setattr(Notebook, "told", told, raising=False)
    monkeypatch.setitem(module.TRACKERS, "tensorboard", Notebook)
    return told


def run(path: Path, names: list[str], steps: int = 1, *, resume: bool = False, end: Exception | None = None) -> None:
    recipe = {"type": "sft", "seed": 7, "schedule": {"max_steps": 9}}
    folder = RunFolder.open(path, recipe, "", resume=resume, overwrite=False)
    with tracking(names, folder, recipe, Say()) as trackers, folder.recording() as events:
        trackers.follow(events)
        events.write("data", tokens=3)
        for step in range(1, steps + 1):
            events.write("step", step=step, loss=0.5, mfu=None, seconds={"rollout": 2}, stopped_early=False)
        events.write("eval", step=steps, loss=float("nan"), tokens=4)
        if end:
            raise end


def test_steps_and_evaluations_are_told_and_then_how_the_run_ended(tmp_path: Path, notebook: list[Any]) -> None:
    run(tmp_path / "a run", ["tensorboard", "tensorboard"])
    step = (1, {"train/loss": 0.5, "train/seconds/rollout": 2.0})
    assert notebook == [("a run", None, None, 7), step, (1, {"eval/tokens": 4.0}), "done"]
    notebook.clear()
    with pytest.raises(StoppedError):
        run(tmp_path / "b", ["tensorboard"], end=StoppedError("signal"))
    assert notebook[-1] == "stopped"
    with pytest.raises(ValueError, match="broken"):
        run(tmp_path / "c", ["tensorboard"], end=ValueError("broken"))
    assert notebook[-1] == "failed"


def test_a_resumed_run_goes_on_under_the_name_that_the_service_has_for_it(tmp_path: Path, notebook: list[Any]) -> None:
    from ftune.core.checkpoints import commit, stage, staged

    with pytest.raises(StoppedError):
        run(tmp_path / "r", ["tensorboard"], end=StoppedError("signal"))
    stage(tmp_path / "r", 4)
    (staged(tmp_path / "r", 4) / "weights").write_text("w")
    commit(staged(tmp_path / "r", 4), tmp_path / "r/checkpoint-4", {"step": 4})
    notebook.clear()
    run(tmp_path / "r", ["tensorboard"], resume=True)
    assert notebook[0] == ("r", 4, "n1", 7)


def test_a_run_that_is_resumed_from_its_beginning_is_the_same_run(tmp_path: Path, notebook: list[Any]) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path / "r", ["tensorboard"], end=StoppedError("signal"))
    notebook.clear()
    run(tmp_path / "r", ["tensorboard"], resume=True)
    assert notebook[0] == ("r", 0, "n1", 7)


def test_a_tracker_that_fails_is_named_without_its_secrets_and_the_run_goes_on(
    tmp_path: Path, notebook: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Down(Notebook):
        def open(self, run: TrackedRun) -> Shown:
            raise ConnectionError(f"no answer\nfor {KEY}")

    monkeypatch.setitem(module.TRACKERS, "wandb", Down)
    run(tmp_path / "r", ["wandb", "tensorboard"])
    said = capfd.readouterr().err
    assert "log.trackers: wandb gets no curves from here on, and the run goes on: no answer for [redacted];" in said
    assert notebook[-1] == "done"
    assert json.loads((tmp_path / "r/ftune.json").read_text()) == {"state": "done"}


def test_a_tracker_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, notebook: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answered = Event()

    class Hangs(Notebook):
        def open(self, run: TrackedRun) -> Shown:
            answered.wait(60)
            raise ConnectionError("too late to be told")

    monkeypatch.setitem(module.TRACKERS, "mlflow", Hangs)
    monkeypatch.setitem(module.LAST_WORDS_S, "done", 0.05)
    run(tmp_path / "r", ["mlflow"], steps=300)
    answered.set()
    [thread.join(9) for thread in threading.enumerate() if thread.name == "tracker-mlflow"]
    said = capfd.readouterr().err
    assert "mlflow has not taken everything in 0.05 s" in said
    assert "too late" not in said


def test_settings_are_flat_and_hold_no_secret() -> None:
    recipe = {"data": {"train": [{"path": f"https://x/?token={KEY}"}]}, "betas": [0.9, 1], "a": None, "b": True}
    assert settings_of(recipe) == {
        "data.train.0.path": "https://x/?token=[redacted]",
        "betas": "[0.9, 1]",
        "a": None,
        "b": True,
    }


def test_processes_that_do_not_write_the_folder_track_nothing(tmp_path: Path, notebook: list[Any]) -> None:
    from ftune.core.checkpoints import Found
    from ftune.report.run_folder import Opening

    folder = RunFolder(tmp_path, Found(), Opening.NEW, writes=False)
    with tracking(["tensorboard"], folder, {}, Say()) as trackers, folder.recording() as events:
        trackers.follow(events)
        events.write("step", step=1, loss=0.5)
    assert notebook == []


def test_the_run_of_a_recipe_is_tracked(
    recipe: Callable[..., Path], ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, notebook: list[Any]
) -> None:
    monkeypatch.setattr("ftune.recipes.training_sections.find_spec", lambda name: object())
    path = recipe(log={"trackers": ["tensorboard"]}, schedule={"max_steps": 1}, checkpoint={"every": "never"})
    done = ftune("sft", path)
    assert done.code == 0, done.err
    assert "tensorboard: in memory\n" in done.err
    assert notebook[0][0] == "tiny"
    assert notebook[1][0] == 1
    assert {"train/loss", "train/learning_rate", "train/tokens_per_s"} <= set(notebook[1][1])
    assert notebook[-1] == "done"


def test_the_iterations_of_ppo_are_tracked(
    recipe: Callable[..., Path], ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, notebook: list[Any]
) -> None:
    monkeypatch.setattr("ftune.recipes.training_sections.find_spec", lambda name: object())
    log = {"samples_every": "never", "trackers": ["tensorboard"]}
    done = ftune("ppo", ppo_recipe(recipe, log=log, schedule={"iterations": 1}, checkpoint={"every": "never"}))
    assert done.code == 0, done.err
    assert notebook[1][0] == 1
    assert {"train/score", "train/kl", "train/reward/length", "train/seconds/rollout"} <= set(notebook[1][1])
    assert notebook[-1] == "done"


def test_tensorboard_draws_what_counts(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resume_step, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        tracker = Tensorboard()
        shown = tracker.open(TrackedRun(tmp_path / "a run", {"seed": 7, "path": "a|b"}, resume_step))
        for step in steps:
            tracker.log(step, {"train/loss": step + 10.0 * (resume_step or 0)})
        tracker.close("done")
    assert shown.where == f"tensorboard --logdir '{tmp_path}/a run/tensorboard'"
    read = accumulator.EventAccumulator(str(tmp_path / "a run/tensorboard"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 23), (4, 24)]
