"""A run's folder belongs to one process at a time, and to nobody once that has ended."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftune.core.checkpoints import commit, stage, stage_folder
from ftune.core.errors import CheckpointError, DataError, FtuneError, RecipeError
from ftune.report.run_folder import Opening, RunFolder
from tests.conversing import conversing

RUN = """
import sys
from pathlib import Path
from ftune.report.run_folder import RunFolder
folder = RunFolder.open(Path(sys.argv[1]), {}, "", resume=False, overwrite=False)
with folder.recording():
    print("training", flush=True)
    sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which trains in `run` until it is told to end that."""
    with conversing(RUN, str(tmp_path / "run"), begins="training") as process:
        yield process


def taken(path: Path, *, resume: bool) -> RunFolder:
    return RunFolder.open(path, {}, "", resume=resume, overwrite=not resume)


@pytest.mark.parametrize("resume", [True, False])
def test_nobody_else_goes_on_or_starts_anew_while_it_trains(
    tmp_path: Path, other: subprocess.Popen[str], resume: bool
) -> None:
    with pytest.raises(RecipeError, match=r"output_dir: .*run: another process is training there; wait for its end"):
        taken(tmp_path / "run", resume=resume)
    print(file=other.stdin, flush=True)
    assert other.stdout.readline() == "done\n"
    with taken(tmp_path / "run", resume=resume).recording():
        pass


def test_a_killed_run_can_be_resumed_at_once(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    with taken(tmp_path / "run", resume=True).recording():
        pass


def test_a_child_that_outlives_it_does_not_keep_the_folder(tmp_path: Path) -> None:
    waits = 'os.read(begun, 1) if os.fork() else (os.write(tell, b"."), os.read(0, 1))'
    forks = RUN.replace('print("training"', f'begun, tell = os.pipe()\n    {waits}\n    print("training"', 1)
    # it is the parent that begins: the child, as a loader's worker does, waits
    with conversing(f"import os{forks}", str(tmp_path / "run"), begins="training") as process:
        process.kill()
        process.wait()
        with taken(tmp_path / "run", resume=True).recording():
            pass


def iterating(count: int) -> dict[str, object]:
    return {"schedule": {"iterations": count}}


@pytest.mark.parametrize(
    ("facts", "result", "message"),
    [
        ({}, "adapter", None),
        (
            {"ended_by": "KL 14 above guard.max_kl 10"},
            "adapter",
            r"ended .* at iteration 4 \(KL 14 .*\).*adapter=.*run ",
        ),
        ({"ended_by": "entropy 0.1"}, "model", r"\(entropy 0\.1\).* model\.path=.*run/model output_dir"),
    ],
)
def test_a_run_that_a_guard_ended_does_not_go_on_for_longer(
    tmp_path: Path, facts: dict[str, object], result: str, message: str | None
) -> None:
    path = tmp_path / "run"
    with RunFolder.open(path, iterating(9), "", resume=False, overwrite=False).recording():
        commit(stage(path, 4), path / "checkpoint-4", {"step": 4, **facts})
        (path / result).mkdir()
    assert RunFolder.open(path, iterating(9), "", resume=True, overwrite=False).opening is Opening.FINISHED
    if message is None:
        assert RunFolder.open(path, iterating(10), "", resume=True, overwrite=False).opening is Opening.LENGTHENED
        return
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match=message):
        RunFolder.open(path, iterating(10), "", resume=True, overwrite=False)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def failed(path: Path, recipe: dict[str, object]) -> None:
    """Leave a run that failed."""
    folder = RunFolder.open(path, recipe, "", resume=False, overwrite=False)
    with pytest.raises(DataError), folder.recording():
        raise DataError("no rows")


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_failed_untrained_gives_way_to_a_corrected_one(tmp_path: Path, resume: bool) -> None:
    path, corrected = tmp_path / "run", {"data": {"train": [{"path": "good"}]}}
    failed(path, {"data": {"train": [{"path": "bad"}]}})
    folder = RunFolder.open(path, corrected, "", resume=resume, overwrite=False)
    assert folder.opening is Opening.ANEW
    assert json.loads((path / "recipe.resolved.json").read_text()) == corrected
    assert not (path / "events.jsonl").exists()


def test_the_same_recipe_resumes_a_run_that_failed_untrained_with_its_history(tmp_path: Path) -> None:
    path = tmp_path / "run"
    failed(path, {})
    assert RunFolder.open(path, {}, "", resume=True, overwrite=False).opening is Opening.RESUMED
    assert (path / "events.jsonl").exists()


@pytest.mark.parametrize("left", ["checkpoint-2", "checkpoint-2.damaged", ".staging", "adapter", "model", "mine"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_failed_run_that_left_more_is_kept(tmp_path: Path, left: str, resume: bool) -> None:
    path = tmp_path / "run"
    failed(path, {"seed": 1})
    (path / left).mkdir()
    with pytest.raises(FtuneError, match=r"holds a run; use --resume|with another recipe \(seed: was 1, is 2\)"):
        RunFolder.open(path, {"seed": 2}, "", resume=resume, overwrite=False)
    assert (path / left).is_dir()


@pytest.mark.parametrize("state", ["running", "stopped", "diverged", "done"])
def test_a_run_in_another_state_does_not_give_way(tmp_path: Path, state: str) -> None:
    path = tmp_path / "run"
    failed(path, {})
    (path / "ftune.json").write_text(json.dumps({"state": state}))
    with pytest.raises(RecipeError, match=r"holds a (finished )?run; use --"):
        RunFolder.open(path, {"seed": 2}, "", resume=False, overwrite=False)
    assert (path / "events.jsonl").exists()


@pytest.mark.parametrize("facts", [{}, {"step": 20}], ids=["model", "checkpoint"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_model_or_a_checkpoint_is_no_run_to_be_replaced(
    tmp_path: Path, facts: dict[str, object], resume: bool
) -> None:
    folder = tmp_path / "folder"
    staging = stage_folder(folder)
    (staging / "model.safetensors").write_bytes(b"weights")
    commit(staging, folder, facts)
    with pytest.raises(RecipeError, match="is not empty and holds no run of ftune"):
        taken(folder, resume=resume)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
