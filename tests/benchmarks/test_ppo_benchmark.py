"""The benchmark of PPO in its try-out size: every engine and whole iterations, and what it makes of the numbers."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program as a function: its arguments to the JSON lines that it prints."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def started(*arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr("sys.argv", ["ppo.py", "--tiny", *arguments])
        runpy.run_path(str(FOLDER / "ppo.py"), run_name="__main__")
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    return started


def test_every_engine_is_measured_and_draws_from_the_policy(run: Run) -> None:
    found = run("--only", "rollout", "--check")
    rates = {line["case"]: line["tokens_per_s"] for line in found if "tokens_per_s" in line}
    checks = [line for line in found if line["part"] == "check"]
    assert rates.keys() == {line["case"] for line in checks} == {"generate", "graph shared", "graph merged"}
    assert min(rates.values()) > 0
    for line in checks:
        assert max(line["gap"], line["gap_after_change"], line["gap_after_rest"]) < 1e-4 < line["gap_without_adapters"]
        assert line["same_seed_same_tokens"]
        assert line["stops"]


@pytest.mark.slow
def test_iterations_of_ftune_are_measured_part_by_part(run: Run) -> None:
    found = run("--only", "iteration")
    assert [line["case"] for line in found] == ["ftune, trunk", "ftune, adapter"]
    for line in found:
        assert {"rollout", "scoring", "rewards", "update"} <= line["parts_s"].keys()
        assert sum(line["parts_s"].values()) < 2 * max(line["iteration_s"])
        assert line["logprob_gap"] < 1e-4


def test_without_trl_the_rest_is_measured(run: Run) -> None:
    assert run("--only", "trl") == [{"part": "trl", "case": "TRL 1.12", "error": "not run: give --trl-path"}]


def test_ratios_are_of_the_best_iterations_and_of_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    ratios = runpy.run_path(str(FOLDER / "ppo.py"))["ratios"]
    ours = {"part": "iteration", "case": "ftune, trunk", "iteration_s": [9.0, 2.0], "peak_gib": 10.0}
    theirs = {"part": "trl", "case": "TRL 1.12", "iteration_s": [15.0, 16.0], "peak_gib": 50.0}
    assert ratios([ours, theirs]) == "ftune, trunk: 7.5 x the iterations of TRL 1.12 in 0.20 x its memory"
    assert ratios([ours]) == ""
