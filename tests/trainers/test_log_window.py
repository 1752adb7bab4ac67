"""The logged loss is the mean of the finite steps since the last log."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.report.events import read_events
from tests.conftest import Done


def test_a_skipped_step_leaves_the_mean_of_its_window(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftune.trainers.sft import ReliableSFTTrainer

    honest = ReliableSFTTrainer.compute_loss
    seen: list[float] = []

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = honest(self, *args, **kwargs)
        if self.state.global_step == 1:
            return loss * math.inf
        seen.append(float(loss))
        return loss

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    assert ftune("sft", recipe(log={"every": 3}, schedule={"max_steps": 3})).code == 0
    (step,) = [event for event in read_events(tmp_path / "runs/tiny/events.jsonl") if event["kind"] == "step"]
    assert len(seen) == 2
    assert step["loss"] == pytest.approx(sum(seen) / 2, rel=1e-6)


def test_the_last_steps_are_told_when_no_log_is_due(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path
) -> None:
    found = []
    for name, every in (("each", 1), ("some", 2), ("none", 9)):
        done = ftune("sft", recipe(log={"every": every}, schedule={"max_steps": 3}), f"output_dir={name}")
        assert "step 3/3  loss" in done.err
        events = read_events(tmp_path / name / "events.jsonl")
        found.append([(event["step"], event["loss"]) for event in events if event["kind"] == "step"])
    each, some, none = found
    losses = [loss for _, loss in each]
    assert some == [(2, pytest.approx(sum(losses[:2]) / 2)), (3, pytest.approx(losses[2]))]
    assert none == [(3, pytest.approx(sum(losses) / 3))]
