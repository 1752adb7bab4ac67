"""A run and its own plan: predicted, held against what was measured, and asked when memory runs out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftune.backends.ranks import Ranks
from ftune.backends.shape import Shape
from ftune.backends.single import Single
from ftune.core.say import Say
from ftune.plan.gpus import GPUS
from ftune.plan.job import Spread
from ftune.plan.work import useful_flops
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.place import Place
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_run import Prediction, predict
from ftune.report.events import EventLog, read_events
from ftune.report.page.cost import expected
from ftune.report.run_folder import RunFolder
from ftune.report.run_record import read_run
from tests.conftest import Done

ROWS = Rows(64, "the test", 24, 24 * 40)
SHAPE = Shape(processes=1, nodes=1, micro_batch_size=2, gradient_accumulation_steps=1, max_grad_norm=1.0, dtype="fp32",
              on_gpu=False)  # fmt: skip


@pytest.fixture
def on_cpu(recipe: Callable[..., Path]) -> Prediction:
    """Of the tiny model on this machine's CPU."""
    given: Any = load_recipe("sft", recipe()).recipe
    return predict(given, Place(Ranks(), Single(device="cpu"), SHAPE), lambda: ROWS)


@pytest.fixture
def on_gpu(on_cpu: Prediction) -> Prediction:
    """The same, as if a GPU had been there."""
    assert on_cpu.plan is not None
    target = replace(on_cpu.plan.target, on_gpu=True, gpu=GPUS["h100"])
    return Prediction(replace(on_cpu.plan, target=target))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has measured 2 GiB."""
    run = RunFolder.open(tmp_path / "run", {"type": "sft"}, "type: sft\n", resume=False, overwrite=False)
    with EventLog(run.path / "events.jsonl") as events:
        events.write("step", step=1, memory_gib=1.5)
        events.write("step", step=2, memory_gib=2.0)
    return run


def test_the_share_of_the_peak_is_that_of_all_gpus(on_cpu: Prediction, on_gpu: Prediction) -> None:
    assert on_gpu.plan is not None
    work = useful_flops(on_gpu.plan.job, 400, 9_000, 100)
    found = on_gpu.mfu(400, 9_000, 100, 0.5)
    assert found == pytest.approx(work / (GPUS["h100"].flops or 0) / 0.5)
    two = replace(on_gpu.plan.job, spread=Spread(type="ddp", processes=2))
    assert Prediction(replace(on_gpu.plan, job=two)).mfu(400, 9_000, 100, 0.25) == pytest.approx(found)
    assert on_cpu.mfu(400, 9_000, 100, 0.5) is None
    assert Prediction(None, why_not="no plan").mfu(400, 9_000, 100, 0.5) is None


def test_what_was_predicted_is_written_down(on_cpu: Prediction, folder: RunFolder) -> None:
    with EventLog(folder.path / "events.jsonl") as events:
        on_cpu.record(events, Say())
    event = read_events(folder.path / "events.jsonl")[-1]
    assert on_cpu.plan is not None
    assert event["memory_gib"] == pytest.approx(on_cpu.plan.estimate.peak / 2**30, abs=1e-3)
    assert sum(event["parts"].values()) == pytest.approx(event["memory_gib"], abs=0.01)
    assert event["on_gpu"] is False


def test_a_gpu_is_held_against_it_and_a_cpu_is_not(
    on_cpu: Prediction, on_gpu: Prediction, folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    on_cpu.hold_against(folder, Say())
    assert capfd.readouterr().err == ""
    on_gpu.hold_against(folder, Say())
    said = capfd.readouterr().err
    assert said.startswith("memory: 2.00 GiB at the peak; ")
    assert "were predicted (" in said


def test_the_page_shows_what_a_gpu_measured(on_cpu: Prediction, on_gpu: Prediction, folder: RunFolder) -> None:
    for prediction, labels in ((on_cpu, []), (on_gpu, ["Peak memory, GiB"])):
        with EventLog(folder.path / "events.jsonl") as events:
            prediction.record(events, Say())
        rows = expected(read_run(folder.path))
        assert [row.label for row in rows] == labels


def test_without_memory_the_cheapest_changes_are_named(on_gpu: Prediction) -> None:
    advice = on_gpu.out_of_memory("halve it")
    assert advice.startswith("cheapest first: batch.micro_batch_size=1 batch.gradient_accumulation_steps=2 (")
    assert "GiB less)" in advice
    assert Prediction(None, why_not="no idea").out_of_memory("halve it") == "halve it"


def test_a_plan_that_fails_ends_no_run(recipe: Callable[..., Path], folder: RunFolder, tmp_path: Path) -> None:
    def broken() -> Rows:
        raise ZeroDivisionError("rows")

    place = Place(Ranks(), Single(device="cpu"), SHAPE)
    given: Any = load_recipe("sft", recipe()).recipe
    assert predict(given, place, broken).why_not == "ZeroDivisionError: rows"
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "mamba"}')
    unknown: Any = load_recipe("sft", recipe(model={"path": str(tmp_path / "odd")})).recipe
    found = predict(unknown, place, lambda: ROWS)
    assert "'mamba' is not one whose shape is known" in found.why_not
    found.hold_against(folder, Say())
    with EventLog(folder.path / "events.jsonl") as events:
        found.record(events, Say())
    assert [event["kind"] for event in read_events(folder.path / "events.jsonl")] == ["step", "step"]


def test_a_run_chooses_its_batch_and_stores_its_plan(recipe: Callable[..., Path], ftune: Callable[..., Done]) -> None:
    batch = {"micro_batch_size": "auto", "activation_checkpointing": "auto", "global_batch_size": 4}
    path = recipe(batch=batch, schedule={"max_steps": 1})
    done = ftune("sft", path, "output_dir=run", "backend.device=cpu", "checkpoint.every=never")
    assert done.code == 0, done.err
    assert "batch.micro_batch_size: auto is 4 (on a CPU the largest power of two with at most 8,192 tokens)" in done.err
    assert "batch.activation_checkpointing: auto is false (never on a CPU)" in done.err
    assert "memory:" not in done.err
    events = {event["kind"]: event for event in read_events(Path("run/events.jsonl"))}
    assert events["predicted"]["rows"] == "the rows themselves"
    assert events["predicted"]["memory_gib"] > 0
    assert json.loads(Path("run/recipe.resolved.json").read_text())["batch"]["micro_batch_size"] == "auto"
