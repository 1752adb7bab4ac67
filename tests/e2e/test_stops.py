"""Runs that are stopped from outside, as processes of their own: nothing is lost, and the resumed run is the same."""

import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from ftune.report.run_folder import read_state
from tests.conftest import Done
from tests.forked import Forked

Write = Callable[..., Path]
STEPS = 60


def steps(run: Path) -> int:
    events = run / "events.jsonl"
    return sum('"kind": "step"' in line for line in events.read_text().splitlines()) if events.exists() else 0


def wait_for_step(run: Path, number: int, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while steps(run) < number:
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.01)


@pytest.fixture
def whole(recipe: Write, ftune: Callable[..., Done], tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A recipe, and the result of its run without a stop."""
    path = recipe(schedule={"max_steps": STEPS}, checkpoint={"every": 5}, peft={"type": "lora", "dropout": 0.1})
    assert ftune("sft", path, "output_dir=runs/whole").code == 0
    return path, load_file(tmp_path / "runs/whole/adapter/adapter_model.safetensors")


def same(run: Path, wanted: dict[str, torch.Tensor]) -> bool:
    found = load_file(run / "adapter/adapter_model.safetensors")
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_kill_9_then_resume_is_the_run_that_never_stopped(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, wanted = whole
    run = tmp_path / "runs/tiny"
    for number in (7, 23):
        process = Forked("sft", path, "--resume", cwd=tmp_path)
        wait_for_step(run, number)
        process.kill()
        assert process.wait() == [-signal.SIGKILL]
    process = Forked("sft", path, "--resume", cwd=tmp_path)
    assert process.wait() == [0], process.said()
    assert "resumed from step" in process.said()
    assert same(run, wanted)
    assert [event["step"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"] == [
        *range(1, STEPS + 1)
    ]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_says_how_to_go_on_and_exits_75(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, number: signal.Signals
) -> None:
    path, wanted = whole
    run = tmp_path / "runs/tiny"
    process = Forked("sft", path, cwd=tmp_path)
    wait_for_step(run, 7)
    process.send(number)
    assert process.wait(timeout_s=60) == [75], process.said()
    err = process.said()
    assert f"stopped by {number.name} at step" in err
    assert f"ftune sft {path} --resume" in err
    assert read_state(run) == "stopped"
    stopped_at = steps(run)
    assert (run / f"checkpoint-{stopped_at}").is_dir()
    assert not (run / "adapter").exists()
    process = Forked("sft", path, "--resume", cwd=tmp_path)
    assert process.wait() == [0], process.said()
    assert f"resumed from step {stopped_at}" in process.said()
    assert same(run, wanted)


@pytest.mark.slow
def test_signals_that_come_together_are_one_request(recipe: Write, tmp_path: Path) -> None:
    """Slurm sends what it sends to every process, and a launcher sends it on."""
    path = recipe(schedule={"max_steps": 100_000}, checkpoint={"every": "never"}, batch={"micro_batch_size": 24})
    process = Forked("sft", path, cwd=tmp_path)
    wait_for_step(tmp_path / "runs/tiny", 2)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
        process.send(number)
    assert process.wait(timeout_s=60) == [75], process.said()
    assert process.said().count("stopping after this step") == 1
    assert read_state(tmp_path / "runs/tiny") == "stopped"


def limited() -> None:
    """Let this process write no file of more than 100 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_ends_with_74_and_keeps_what_was_saved(recipe: Write, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the result is refused by the system as on a full one."""
    path = recipe(peft="full", schedule={"max_steps": 4}, checkpoint={"every": 2})
    process = Forked("sft", path, cwd=tmp_path, before=limited)
    assert process.wait() == [74], process.said()
    assert "checkpoint not saved, training goes on" in process.said()
    assert "Traceback" not in process.said()
    run = tmp_path / "runs/tiny"
    assert not (run / "model").exists()
    assert not list(run.glob(".staging/*/*"))
