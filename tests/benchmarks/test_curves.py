"""The benchmark of loss curves: what it computes of them, and that its ways train alike."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
Module = Callable[[str], dict[str, Any]]


def result(way: str, seed: int, losses: list[float | None]) -> dict[str, Any]:
    return {"setting": f"seed {seed}", "way": way, "losses": losses}


PLAIN = [result("plain", 1, [4.0, 4.0, 4.0]), result("plain", 2, [4.5, 4.5, 4.5])]


def test_a_way_is_within_where_another_seed_is_farther(module: Module) -> None:
    near = [result("near", 1, [4.4, 4.4, 4.4]), result("near", 2, [4.2, 4.2, 4.2])]
    far = [result("far", 1, [3.0, 3.0, 3.0]), result("far", 2, [4.5, 4.5, 4.5])]
    lines = module("train_parts/likeness.py")["table"]([*PLAIN, *near, *far], "plain").splitlines()
    assert lines[2:5] == [
        "| plain | 0.00000 | +0.00000 | 4.2500 |  |",
        "| near | 0.35000 | +0.05000 | 4.3000 | within |",
        "| far | 0.50000 | -0.50000 | 3.7500 | within |",
    ]
    assert "Between the seeds of plain: 0.50000" in lines[-1]
    worse = [result("worse", seed, [5.1, 5.1, 5.1]) for seed in (1, 2)]
    assert "| worse | 0.85000 | +0.85000 | 5.1000 | NOT within |" in module("train_parts/likeness.py")["table"](
        [*PLAIN, *worse], "plain"
    )


def test_what_has_no_whole_curve_is_not_within(module: Module) -> None:
    table = module("train_parts/likeness.py")["table"]
    failed = {"setting": "seed 2", "way": "failed", "error": "no memory"}
    broken = [result("nan", 1, [4.0, None, 4.0]), result("failed", 1, [4.0, 4.0, 4.0]), failed]
    told = table([*PLAIN, *broken], "plain")
    assert "| nan | no whole curve: seed 1 | | | NOT within |" in told
    assert "| failed | no whole curve: seed 2 | | | NOT within |" in told
    assert table([PLAIN[0], *broken], "plain") == "nothing to compare with: 'plain' has not trained with two seeds"


def test_ways_with_the_same_seed_train_on_the_same_rows(
    module: Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = module("curves.py")
    from train_parts.curve import train

    monkeypatch.setattr(
        "sys.argv", ["curves.py", "--tiny", "--steps", "3", "--way", "no-fold", "speed.folded_lora=off"]
    )
    jobs = list(program["jobs_of"](program["parse"](), tmp_path))
    ways = ["plain", "ftune", "no-fold"]
    assert [(job.way, job.setting.name) for job in jobs] == [(way, f"seed {seed}") for seed in (1, 2) for way in ways]
    results = [train(job) for job in jobs[:3]]
    assert [found["speed"]["fused_loss"] for found in results] == [False, True, True]
    assert [found["speed"]["folded_lora"] > 0 for found in results] == [False, True, False]
    for found in results:
        assert found["losses"] == pytest.approx(results[0]["losses"], abs=1e-4)
    program["draw"](results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", [["--model", "m"], ["--seeds", "1"]])
def test_half_of_what_is_needed_is_refused(
    module: Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["curves.py", *words])
    with pytest.raises(SystemExit):
        module("curves.py")["parse"]()
    assert words[0] in capsys.readouterr().err


@pytest.mark.slow
def test_the_program_compares_all_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    picture, results = tmp_path / "curves.png", tmp_path / "results.jsonl"
    words = ["--tiny", "--steps", "4", "--picture", str(picture), "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["curves.py", *words])
    runpy.run_path(str(FOLDER / "curves.py"), run_name="__main__")
    assert "| within |" in capsys.readouterr().out
    assert [len(json.loads(line)["losses"]) for line in results.read_text().splitlines()] == [4] * 4
    assert picture.stat().st_size > 0
