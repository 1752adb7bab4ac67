"""However a step's rows are cut and whenever its batches are made: the same weights, losses, counts and rows."""

import json
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ftune.core.errors import DivergedError, LaunchError
from ftune.core.say import Say
from ftune.data.stream import Position
from ftune.peft.hook import TrainingHook
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.inputs import Inputs, load_inputs
from ftune.report.events import EventLog, read_events
from ftune.trainers.fed import Feeding
from ftune.trainers.feed import PreparedDataset, StreamDataset
from ftune.trainers.method import Method
from ftune.trainers.sft import ReliableSFTTrainer, train_sft
from ftune.trainers.speed import at_speed
from ftune.trainers.training import Around
from tests.conftest import chat_rows, write_rows

Weights = dict[str, torch.Tensor]
Train = Callable[..., Weights]

ROWS = 22
"""Of 8 a step: the last step of an epoch has 6."""

ALL = Feeding(capacity=10_000)
"""Room for a whole step in one micro-batch."""


class Shrink(TrainingHook):
    """Trains weights to be small, by a term in the loss that a step is to have once."""

    def __init__(self, model: Any) -> None:
        self.trained = [value for value in model.parameters() if value.requires_grad]

    def regulariser(self) -> torch.Tensor:
        """A tenth of the squares."""
        return torch.stack([0.1 * value.square().sum() for value in self.trained]).sum()

    def begin(self, steps: int) -> None:
        """Nothing to prepare."""

    def after_step(self, step: int) -> dict[str, object]:
        """Nothing to tell."""
        return {}

    def state(self) -> Weights:
        """Nothing to remember."""
        return {}

    def restore(self, state: Weights) -> None:
        """Nothing to bring back."""


def recipe_of(path: Path, **sections: Any) -> Any:
    path.write_text(yaml.safe_dump({"type": "sft", "optim": {"learning_rate": 0.01}, **sections}))
    return load_recipe("sft", path).recipe


def feed_of(inputs: Inputs, checkpoint: Path | None, *, packing: bool) -> PreparedDataset | StreamDataset:
    """The rows; a stream from where the checkpoint stands, packed ones in pairs."""
    if inputs.stream is not None:
        start = json.loads((checkpoint / "ftune.json").read_text())["stream"] if checkpoint else []
        return StreamDataset(inputs.stream, Position(*start))
    pairs = [[number, number + 1] for number in range(0, ROWS, 2)]
    return PreparedDataset(inputs.train, pairs if packing else None)


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Train:
    """Trains a LoRA of the tiny model, and gives its weights; what it tells is in the folder of that name."""
    rows = write_rows(tmp_path / "rows.jsonl", chat_rows(ROWS))

    def train(
        name: str,
        feeding: Feeding | None,
        *,
        micro: int = 2,
        accumulation: int = 4,
        steps: int = 7,
        packing: bool = False,
        stream: bool = False,
        dropout: float = 0.0,
        every: int = 100,
        checkpoint: str = "",
        hook: bool = False,
        every_log: int = 1,
        full: bool = False,
        bf16: bool = False,
        held_out: bool = False,
    ) -> Weights:
        data = {"train": str(rows), "max_length": 128, "packing": packing}
        data |= {"validation": str(rows)} if held_out else {}
        recipe = recipe_of(
            tmp_path / "recipe.yaml",
            model={"path": str(tiny_model)},
            data=data | ({"streaming": {"shuffle_buffer": 6}} if stream else {}),
            peft={"type": "full"} if full or bf16 else {"type": "lora", "rank": 4, "dropout": dropout},
            log={"every": every_log},
            schedule={"max_steps": steps},
            batch={"micro_batch_size": micro, "gradient_accumulation_steps": accumulation},
            checkpoint={"every": every, "keep": 9},
            eval={"every": 3} if held_out else {},
        )
        inputs = load_inputs(recipe, Say())
        torch.manual_seed(0)
        loaded = recipe.model.load(inputs.located, "bf16" if bf16 else "fp32", "cpu")
        model: Any = recipe.peft.wrap(loaded, None)
        probed = [inputs.train.ids(index) for index in (0, 1)]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        found = folder / checkpoint if checkpoint else None
        with at_speed(model, probed, torch.bfloat16 if bf16 else torch.float32) as speed:
            assert speed.attention
            assert speed.fused_loss
            train_sft(
                model,
                inputs.tokenizer,
                feed_of(inputs, found, packing=packing),
                PreparedDataset(inputs.validation) if held_out else None,
                Around(
                    args={**recipe.training_args(), "output_dir": str(folder), "bf16": bf16, "use_cpu": True},
                    trains_bf16=bf16,
                    events=EventLog(
                        folder / "events.jsonl", int(checkpoint.rpartition("-")[2]) if checkpoint else None
                    ),
                    facts={},
                    say=Say(),
                    method=Method(not (full or bf16), Shrink(model) if hook else None),
                    checkpoint=found,
                    mfu=lambda tokens, squares, trained, seconds: tokens + squares / 1e4,
                ),
                packed=packing,
                speed=speed,
                feeding=feeding,
            )
        return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    return train


def told(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Events without what was measured by the clock."""
    measured = {"time", "tokens_per_s", "memory_gib", "seconds"}
    return [
        {key: value for key, value in event.items() if key not in measured}
        for event in read_events(folder / "events.jsonl")
        if event["kind"] in (kinds or ("step", "skipped"))
    ]


def assert_alike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same events, numbers but for rounding."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value == (pytest.approx(right[key], rel=1e-4) if isinstance(value, float) else right[key]), key


def assert_close(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each forward pass from now on."""
    seen: list[int] = []
    honest = ReliableSFTTrainer.compute_loss

    def counting(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["input_ids"].numel())
        return honest(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", counting)
    return seen


@pytest.mark.parametrize("packing", [False, True])
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


LATE = Feeding(capacity=180, ahead=True, late=True)
"""A step's numbers are read during the next one."""


SHAPES: list[dict[str, Any]] = [
    {},
    {"every_log": 3, "every": 2},
    {"full": True},
    {"bf16": True},
    {"held_out": True, "every_log": 2},
    {"dropout": 0.2, "held_out": True, "every": 2},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_read_late_are_the_same_bits(trained: Train, tmp_path: Path, shape: dict[str, Any]) -> None:
    one = trained("at once", Feeding(capacity=180), **shape)
    other = trained("late", LATE, **shape)
    assert all(torch.equal(one[key], other[key]) for key in one)
    kinds = ("step", "eval", "checkpoint")
    assert told(tmp_path / "at once", *kinds) == told(tmp_path / "late", *kinds)
    assert len(told(tmp_path / "late")) == 7 // shape.get("every_log", 1)
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
