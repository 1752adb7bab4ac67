"""A disk that fills up while a run is on it: saves fail and are told, what was saved stays, the run can be finished."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftune.core.checkpoints import newest_valid, verify
from ftune.report.events import read_events
from ftune.report.run_folder import read_state
from tests.e2e.test_kills import digest, steps_told, written
from tests.e2e.test_stops import steps
from tests.forked import Forked

Write = Callable[..., Path]
STEPS = 24
LEFT = 24 * 1024
"""Bytes that stay free: lines of the log fit, a checkpoint does not."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, process: Forked) -> Path:
    """Take all room but a little, again and again until a save has failed; gives the file to remove."""
    ballast, piece = disk / "ballast", bytes(4096)

    def failed() -> bool:
        with ballast.open("ab") as file:
            while (free := os.statvfs(disk)).f_bavail * free.f_frsize > LEFT:
                file.write(piece)
                file.flush()
        return "checkpoint not saved" in process.said()

    assert process.until(failed)
    return ballast


def finish(path: Path, run: Path, ranks: int) -> None:
    """Resume, and compare with the run that had room; what was saved is as it was."""
    kept = newest_valid(run)
    assert kept.step
    assert kept.damaged == []
    last = Forked("sft", path, f"output_dir={run}", "--resume", cwd=path.parent, ranks=ranks)
    assert set(last.wait()) == {0}, last.said()
    assert f"resumed from step {kept.step}" in last.said()
    assert digest(run) == digest(path.parent / "runs/whole")
    assert steps_told(run) == [*range(1, STEPS + 1)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_that_fills_up_costs_checkpoints_and_the_result_but_no_step(
    recipe: Write, tmp_path: Path, disk: Path, ranks: int
) -> None:
    path, run = written(recipe, ranks, schedule={"max_steps": STEPS}), disk / "run"
    whole = Forked("sft", path, "output_dir=runs/whole", cwd=tmp_path, ranks=ranks)
    assert set(whole.wait()) == {0}, whole.said()
    full = Forked("sft", path, f"output_dir={run}", cwd=tmp_path, ranks=ranks)
    assert full.until((run / "checkpoint-4").is_dir)
    ballast = fill(disk, full)
    codes = full.wait()
    assert set(codes) == {74}, full.said()
    said = full.said()
    assert "checkpoint not saved, training goes on" in said
    assert "No space left on device" in said
    assert f"ftune sft {path} output_dir={run} --resume" in said
    assert "Traceback" not in said
    assert steps(run) == STEPS
    assert read_state(run) == "failed"
    assert {event["kind"] for event in read_events(run / "events.jsonl")} >= {"save_failed"}
    assert not (run / "adapter").exists()
    assert not list(run.glob(".staging/*/*"))
    assert all(verify(folder) == [] for folder in run.glob("checkpoint-*"))
    ballast.unlink()
    finish(path, run, ranks)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [1, 2])
def test_saves_work_again_once_there_is_room(recipe: Write, tmp_path: Path, disk: Path, ranks: int) -> None:
    path, run = written(recipe, ranks, schedule={"max_steps": STEPS}), disk / "run"
    process = Forked("sft", path, f"output_dir={run}", cwd=tmp_path, ranks=ranks)
    assert process.until((run / "checkpoint-2").is_dir)
    fill(disk, process).unlink()
    assert set(process.wait()) == {0}, process.said()
    kinds = [event["kind"] for event in read_events(run / "events.jsonl")]
    assert "checkpoint" in kinds[kinds.index("save_failed") :]
    assert verify(run / f"checkpoint-{STEPS}") == []
