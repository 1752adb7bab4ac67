"""Steps, hours and money of a planned run, and the speed that an earlier run has measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftune.plan.gpus import GPUS
from ftune.plan.work import SHARE, token_flops
from ftune.recipes.runs.plan import Plan
from ftune.recipes.runs.plan_probe import Probe
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_time import steps_of, time_of, usual_job
from ftune.report.events import EventLog
from tests.recipes.test_plan import ROWS, plan


def on_h100(command: str, *overrides: str, gpus: int = 1, rows: Rows = ROWS) -> Plan:
    """A plan on a device whose speed is known."""
    made = plan(command, *overrides, gpus=gpus, rows=rows)
    return replace(made, target=replace(made.target, gpu=GPUS["h100"]))


@pytest.mark.parametrize(
    ("command", "overrides", "gpus", "steps"),
    [
        ("sft", [], 1, 60),  # 640 rows, 32 a step, 3 epochs
        ("sft", [], 4, 60),
        ("sft", ["schedule.epochs=0.5"], 1, 10),
        ("sft", ["schedule.max_steps=7"], 1, 7),
        ("sft", ["data.packing=true"], 1, 3),  # 64,000 tokens are 31.25 sequences of 2,048
        ("rm", [], 1, 120),  # 640 pairs, 16 a step
        ("rm", [], 2, 60),
        ("ppo", [], 1, 200),
    ],
)
def test_steps(command: str, overrides: list[str], gpus: int, steps: int) -> None:
    assert steps_of(plan(command, *overrides, gpus=gpus)) == steps


def test_without_rows_nobody_knows_how_long_it_takes() -> None:
    unknown = on_h100("sft", rows=Rows(1000, "the test"))
    assert steps_of(unknown) is None
    assert time_of(unknown) is None
    assert time_of(on_h100("sft", "schedule.max_steps=7", rows=Rows(1000, "the test"))) is not None


def test_time_is_that_of_usual_rows_and_is_shared_by_devices() -> None:
    one, four = time_of(on_h100("sft")), time_of(on_h100("sft", gpus=4))
    assert one is not None
    assert four is not None
    assert one.tokens == 3 * 64_000  # three epochs of rows of 100 tokens, not of the longest
    assert one.hours == pytest.approx(4 * four.hours)
    assert one.price(2.5) == pytest.approx(2.5 * one.hours) == pytest.approx(four.price(2.5))
    assert (one.share, one.said_by) == (SHARE, "assumed")


def test_an_earlier_run_on_such_a_device_says_how_fast_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = on_h100("sft", "output_dir=before")
    folder = tmp_path / "before"
    folder.mkdir()
    (folder / "ftune.json").write_text('{"state": "done"}')
    (folder / "recipe.resolved.json").write_text(json.dumps(made.recipe.resolved()))
    speed = 0.5 * 989.4e12 / token_flops(usual_job(made))
    with EventLog(folder / "events.jsonl") as events:
        events.write("model", device="NVIDIA H100 80GB HBM3", processes=1)
        for step in (1, 2, 3):
            events.write("step", step=step, tokens_per_s=speed)
    found = time_of(made)
    assert found is not None
    assert found.share == pytest.approx(0.5)
    assert found.said_by == "measured by the run in before"
    assert found.tokens_per_s == pytest.approx(speed)
    again = ("output_dir=before", "batch.activation_checkpointing=true")
    assert _share(*again) == SHARE
    with EventLog(folder / "events.jsonl") as events:  # as a run has it of which `auto` made that
        events.write("predicted", activation_checkpointing=True)
    assert _share(*again) not in (None, SHARE)
    assert _share("output_dir=before") == SHARE


def _share(*overrides: str) -> float | None:
    time = time_of(on_h100("sft", *overrides))
    assert time is not None
    return time.share


@pytest.mark.parametrize("command", ["sft", "ppo"])
def test_a_probe_says_how_fast_it_is(command: str) -> None:
    made = on_h100(command)
    probe = Probe(steps=3, seconds=2.0, tokens=500.0, peak=None, rows=ROWS)
    found = time_of(replace(made, probe=probe, target=replace(made.target, gpu=None)))
    assert found is not None
    seconds = {"sft": 3 * 64_000 / 250, "ppo": 2.0 * 200}[command]
    assert found.hours * 3600 == pytest.approx(seconds)
    assert found.share is None
