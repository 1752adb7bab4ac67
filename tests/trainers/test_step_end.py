"""A step's numbers that are read during the next one: the same weights, losses, events and stops, bit for bit."""

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import DivergedError, LaunchError
from ftune.trainers.fed import Feeding
from ftune.trainers.sft import ReliableSFTTrainer
from tests.trainers.fed_runs import Train, told

LATE = Feeding(capacity=180, ahead=True, late=True)
"""A step's numbers are read during the next one."""


SHAPES: list[Any] = [
    {},
    pytest.param({"every_log": 3, "every": 2}, marks=pytest.mark.slow),
    {"full": True},
    pytest.param({"bf16": True}, marks=pytest.mark.slow),
    pytest.param({"held_out": True, "every_log": 2}, marks=pytest.mark.slow),
    {"dropout": 0.2, "held_out": True, "every": 2},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_read_late_are_the_same_bits(trained: Train, tmp_path: Path, shape: dict[str, Any]) -> None:
    one = trained("at once", Feeding(capacity=180), **shape)
    other = trained("late", LATE, **shape)
    assert all(torch.equal(one[key], other[key]) for key in one)
    kinds = ("step", "eval", "checkpoint")
    assert told(tmp_path / "at once", *kinds) == told(tmp_path / "late", *kinds)
    assert len(told(tmp_path / "late")) == -(-7 // shape.get("every_log", 1))  # the last step is told too
    assert len(told(tmp_path / "late", "eval")) == 3 * shape.get("held_out", 0)


def test_a_step_is_logged_when_the_next_one_has_begun(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    honest = ReliableSFTTrainer.compute_loss

    def watching(self: Any, *args: Any, **kwargs: Any) -> Any:
        written.append(len(told(self.events.path.parent)))
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", watching)
    trained("late", Feeding(capacity=10_000, late=True), steps=5, every=3)
    assert written == [0, 0, 1, 3, 3]  # the third step was saved
    assert len(told(tmp_path / "late")) == 5


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_when_it_is_read_late(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    honest = ReliableSFTTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = honest(self, *args, **kwargs)
        return loss * math.nan if len(self._rows) <= 8 and self.state.global_step in (0, 2, 3) else loss

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    plain = trained("at once", Feeding(capacity=180), full=True, bf16=bf16, every=3)
    late = trained("late", LATE, full=True, bf16=bf16, every=3)
    assert all(torch.equal(plain[key], late[key]) for key in plain)
    assert [event["step"] for event in told(tmp_path / "late", "skipped")] == [1, 3, 4]
    assert told(tmp_path / "late") == told(tmp_path / "at once")
    again = trained("late", LATE, full=True, bf16=bf16, every=3, checkpoint="checkpoint-3")
    assert all(torch.equal(again[key], late[key]) for key in plain)


def test_a_run_that_is_stopped_tells_its_last_step_and_goes_on_as_if_it_had_not(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained("whole", LATE)
    honest = ReliableSFTTrainer.compute_loss

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        return honest(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ReliableSFTTrainer, "compute_loss", stopping)
        trained("stopped", LATE)
    assert [event["step"] for event in told(tmp_path / "stopped")] == [1, 2, 3, 4]
    resumed = trained("stopped", LATE, checkpoint="checkpoint-4")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_three_steps_that_are_not_finite_end_a_run_that_reads_late(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ReliableSFTTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        return honest(self, *args, **kwargs) * (math.inf if self.state.global_step > 0 else 1.0)

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    with pytest.raises(DivergedError, match="step 4: 3 steps in a row were not finite"):
        trained("late", LATE)
    assert [event["step"] for event in told(tmp_path / "late")] == [1, 2, 3, 4]


def test_the_step_before_is_told_when_memory_runs_out(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ReliableSFTTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    with pytest.raises(LaunchError, match="out of GPU memory at step 3"):
        trained("late", LATE)
    assert [event["step"] for event in told(tmp_path / "late")] == [1, 2]
