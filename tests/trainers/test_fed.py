"""However a step's rows are cut and whenever its batches are made: the same weights, losses, counts and rows."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.trainers.fed import Feeding
from ftune.trainers.feed import PreparedDataset
from ftune.trainers.sft import ReliableSFTTrainer
from tests.trainers.fed_runs import Train, assert_alike, assert_close, told

ALL = Feeding(capacity=10_000)
"""Room for a whole step in one micro-batch."""


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each forward pass from now on."""
    seen: list[int] = []
    honest = ReliableSFTTrainer.compute_loss

    def counting(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return honest(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", counting)
    return seen


@pytest.mark.parametrize("packing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_all_cuts_of_a_step_train_the_same_weights(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    seen = passes(monkeypatch)
    shape = {"packing": packing, "hook": True, "steps": 4}
    room = 360 if packing else 180
    runs = {
        "whole": trained("whole", None, micro=8, accumulation=1, **shape),
        "single": trained("single", None, micro=1, accumulation=8, **shape),
        "drawn": trained("drawn", None, **shape),
    }
    seen.clear()
    runs["all"] = trained("all", ALL, **shape)
    assert len(seen) == 4
    seen.clear()
    runs["two"] = trained("two", Feeding(capacity=room), **shape)
    assert 4 < len(seen) <= 8
    assert max(seen) <= room
    for name in ("single", "drawn", "all", "two"):
        assert_close(runs[name], runs["whole"])
    history = {name: told(tmp_path / name) for name in runs}
    epochs = {name: [event.pop("epoch") for event in events] for name, events in history.items()}
    assert epochs["drawn"] == epochs["all"] == epochs["two"]
    for name in ("single", "drawn", "all", "two"):
        assert_alike(history[name], history["whole"])


def test_batches_made_ahead_are_the_same_bits(
    trained: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, capacity in (("drawn", None), ("cut", 180)):
        one = trained(name, Feeding(capacity))
        other = trained(f"{name} ahead", Feeding(capacity, ahead=True))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert told(tmp_path / name) == told(tmp_path / f"{name} ahead")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert [event["micro_batch_tokens"] for event in told(tmp_path / "cut ahead", "speed")] == [180]
    assert "micro-batches cut anew, of 180 tokens at most, made ahead" in capfd.readouterr().err


@pytest.mark.parametrize("stream", [False, True])
def test_resume_is_bit_for_bit_the_run_that_never_stopped(trained: Train, tmp_path: Path, stream: bool) -> None:
    feeding = Feeding(capacity=180, ahead=True)
    shape: dict[str, Any] = {"stream": stream, "dropout": 0.2, "every": 2}
    whole = trained("run", feeding, **shape)
    history = told(tmp_path / "run", "step")
    torch.manual_seed(12345)
    resumed = trained("run", feeding, checkpoint="checkpoint-4", **shape)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    again = told(tmp_path / "run", "step")
    assert len(again) == len(history) == 7
    if stream:  # transformers counts its epochs from where it has been resumed
        history, again = ([event | {"epoch": 0} for event in events] for events in (history, again))
    assert again == history


def test_a_stream_stands_behind_what_was_trained_not_what_was_read(trained: Train, tmp_path: Path) -> None:
    positions = []
    for name, feeding in (("plain", None), ("fed", Feeding(capacity=180, ahead=True))):
        trained(name, feeding, stream=True, every=2, steps=4)
        positions.append(json.loads((tmp_path / name / "checkpoint-2/ftune.json").read_text())["stream"])
    assert positions == [[0, 16], [0, 16]]


def test_a_step_that_is_not_finite_names_its_rows_and_changes_nothing(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ReliableSFTTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = honest(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 1 else loss

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    plain, cut = trained("plain", None, steps=3), trained("cut", Feeding(capacity=180, ahead=True), steps=3)
    assert_close(cut, plain)
    (skipped,) = told(tmp_path / "cut", "skipped")
    assert skipped["step"] == 2
    assert len(skipped["rows"]) == 8
    assert_alike(told(tmp_path / "cut"), told(tmp_path / "plain"))


def test_the_share_of_the_peak_is_told(trained: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained("run", ALL, steps=1)
    (step,) = told(tmp_path / "run", "step")
    assert 0.1 < step["mfu"] - step["tokens"] < 2.0  # 8 rows of about 34 tokens
    assert f"MFU {step['mfu']:.0%}" in capfd.readouterr().err


def test_the_thread_ends_with_a_run_that_fails(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PreparedDataset.__getitem__
    seen: list[str] = []

    def faulty(self: PreparedDataset, index: int) -> Any:
        seen.append(threading.current_thread().name)
        if len(seen) > 12:
            raise OSError("the disk is gone")
        return honest(self, index)

    monkeypatch.setattr(PreparedDataset, "__getitem__", faulty)
    with pytest.raises(OSError, match="the disk is gone") as raised:
        trained("run", Feeding(ahead=True))
    assert raised.traceback[-1].name == "faulty"
    assert seen[0] == "MainThread"
    assert seen[-1].startswith("batches")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
