"""Checkpoints whose run is killed, like by kill -9, at each call that changes a file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftune.core.checkpoints import STAGING, commit, newest_valid, rotate, stage, verify

MUTATIONS = ("mkdir", "rmdir", "unlink", "replace", "chmod", "fsync", "open")
NEVER = 10**9


def save(run_dir: Path, step: int, weights: bytes = b"old") -> None:
    staging = stage(run_dir, step)
    (staging / "model.safetensors").write_bytes(weights)
    (staging / "rank_0").mkdir()
    (staging / "rank_0" / "rng.pth").write_bytes(b"rng" * step)
    commit(staging, run_dir / f"checkpoint-{step}", {"step": step})


def names_in(run_dir: Path) -> list[str]:
    """What lies in a run folder, apart from an empty staging folder."""
    return sorted(path.name for path in run_dir.iterdir() if path.name != STAGING or any(path.iterdir()))


def killed_at(moment: int, action: Callable[[], object]) -> int | None:
    """Run `action` in a child that dies, like kill -9, at its nth call that changes files; None if it was killed.

    A child that lives to the end returns how many such calls it made.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            calls = 0

            def counted(function: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal calls
                    calls += 1
                    if calls == moment:
                        os._exit(137)
                    return function(*args, **kwargs)

                return call

            for name in MUTATIONS:
                setattr(os, name, counted(getattr(os, name)))
            action()
            os.write(write, str(calls).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(status) in {0, 137}
    return int(said) if said else None


def test_a_kill_at_any_call_leaves_a_valid_newest_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "counted", 4)
    calls = killed_at(NEVER, lambda: save(tmp_path / "counted", 12))
    assert calls is not None
    assert calls > 12
    steps = []
    for moment in range(1, calls + 1):
        run_dir = tmp_path / str(moment)
        save(run_dir, 4)
        assert killed_at(moment, lambda run_dir=run_dir: save(run_dir, 12)) is None
        found = newest_valid(run_dir)
        assert found.damaged == []
        assert verify(found.path) == []
        steps.append(found.step)
        save(run_dir, 12)
        assert newest_valid(run_dir).step == 12
    assert steps == sorted(steps)
    assert set(steps) == {4, 12}


def test_a_kill_while_a_step_is_saved_again_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    save(tmp_path / "counted", 4)
    calls = killed_at(NEVER, lambda: save(tmp_path / "counted", 4, b"new"))
    seen = []
    for moment in range(1, calls + 1):
        run_dir = tmp_path / str(moment)
        save(run_dir, 4)
        assert killed_at(moment, lambda run_dir=run_dir: save(run_dir, 4, b"new")) is None
        found = newest_valid(run_dir)
        assert found.step == 4
        assert found.damaged == []
        seen.append((found.path / "model.safetensors").read_bytes() == b"new")
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def test_a_kill_in_a_rotation_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    def rotate_three(run_dir: Path) -> None:
        for step in (1, 2, 3):
            save(run_dir, step)

    rotate_three(tmp_path / "counted")
    calls = killed_at(NEVER, lambda: rotate(tmp_path / "counted", 1))
    for moment in range(1, calls + 1):
        run_dir = tmp_path / str(moment)
        rotate_three(run_dir)
        assert killed_at(moment, lambda run_dir=run_dir: rotate(run_dir, 1)) is None
        assert all(verify(path) == [] for path in run_dir.glob("checkpoint-*"))
        assert newest_valid(run_dir).step == 3
        rotate(run_dir, 1)
        assert names_in(run_dir) == ["checkpoint-3"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments=st.lists(st.integers(1, 60), min_size=1, max_size=6), keep=st.integers(1, 3))
def test_a_run_killed_again_and_again_never_goes_back_and_gets_done(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int], keep: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")

    def train() -> None:
        for step in range(newest_valid(run_dir).step + 1, 6):
            save(run_dir, step, bytes([step]))
            rotate(run_dir, keep)

    reached = 0
    for moment in moments:
        killed_at(moment, train)
        found = newest_valid(run_dir)
        assert found.damaged == []
        assert found.step >= reached
        reached = found.step
    train()
    rotate(run_dir, keep)
    assert names_in(run_dir) == [f"checkpoint-{step}" for step in range(6 - keep, 6)]
    assert (run_dir / "checkpoint-5" / "model.safetensors").read_bytes() == b"\5"
