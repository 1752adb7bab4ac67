"""Training on a stream: the same as ever, and resumed where it stood, bit for bit, without reading rows for nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from tests.conftest import Done, chat_rows, write_rows

Run = Callable[..., Done]
Write = Callable[..., Path]


@pytest.fixture
def streamed(recipe: Write, tmp_path: Path) -> Write:
    """A recipe that streams two sources."""
    write_rows(tmp_path / "more.jsonl", chat_rows(11, start=50))

    def write(**data: Any) -> Path:
        base = {
            "train": ["rows.jsonl", {"path": "more.jsonl", "weight": 2.0}],
            "mix": "interleave",
            "streaming": {"shuffle_buffer": 6},
            "max_length": 128,
            "validation": "more.jsonl",
        }
        return recipe(
            data=base | data,
            schedule={"max_steps": 12},
            batch={"micro_batch_size": 2, "gradient_accumulation_steps": 2},
            peft={"type": "lora", "rank": 4, "dropout": 0.1},
            checkpoint={"every": 5, "keep": 9},
        )

    return write


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter/adapter_model.safetensors")


@pytest.mark.parametrize("packing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_resume_is_bit_for_bit_the_run_that_never_stopped(
    streamed: Write, ftune: Run, tmp_path: Path, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftune.data.stream.BATCH", 7)  # several windows between two checkpoints
    path = streamed(packing=packing)
    done = ftune("sft", path)
    assert done.code == 0, done.err
    assert "the first" in done.err
    run = tmp_path / "runs/tiny"
    whole = weights(run)
    facts = json.loads((run / "checkpoint-5/ftune.json").read_text())
    assert facts["stream"][0] > 0
    for later in ("checkpoint-10", "checkpoint-12", "adapter"):
        shutil.rmtree(run / later)
    (run / "ftune.json").write_text('{"state": "running"}')
    resumed = ftune("sft", path, "--resume")
    assert resumed.code == 0, resumed.err
    assert "resumed from step 5" in resumed.err
    found = weights(run)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_the_first_steps_see_the_rows_of_the_stream(streamed: Write, ftune: Run, tmp_path: Path) -> None:
    done = ftune("sft", streamed())
    assert done.code == 0
    events = read_events(tmp_path / "runs/tiny/events.jsonl")
    steps = [event for event in events if event["kind"] == "step"]
    assert len(steps) == 12
    assert any(event["kind"] == "eval" for event in events)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert "stream: 1,000 rows read" in done.err  # one window
    assert "rows read from the stream" in (tmp_path / "runs/tiny/README.md").read_text()


def test_rows_that_changed_end_a_resume(streamed: Write, ftune: Run, tmp_path: Path) -> None:
    path = streamed()
    assert ftune("sft", path).code == 0
    (tmp_path / "runs/tiny/ftune.json").write_text('{"state": "running"}')
    write_rows(tmp_path / "more.jsonl", chat_rows(11, start=60))
    refused = ftune("sft", path, "--resume")
    assert refused.code == 2
    assert "the training rows are not those of the checkpoint" in refused.err


def test_a_bad_row_in_the_middle_of_a_stream_is_named(
    recipe: Write, ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftune.recipes.runs.rows.SAMPLE", 10)
    write_rows(tmp_path / "bad.jsonl", [*chat_rows(15), {"messages": 7}])
    data = {"train": "bad.jsonl", "streaming": True, "max_length": 128}
    done = ftune("sft", recipe(data=data, schedule={"max_steps": 20}))
    assert done.code == 2
    assert "bad.jsonl:16: 'messages' is the number 7" in done.err


def test_workers_that_would_each_read_the_whole_stream_are_refused(streamed: Write, ftune: Run) -> None:
    refused = ftune("sft", streamed(), "trainer_args={dataloader_num_workers: 2}")
    assert refused.code == 2
    assert "dataloader_num_workers: a stream is read by the training process" in refused.err
