"""Evaluations beside each other: what is best, what is not comparable, and that the table fits."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import RecipeError
from ftune.report.compare import EvaluatedRun, RunComparison, Value, compare_runs, comparison_table

SHARE, LOWER, LENGTH = (
    {"better": "higher", "scale": "share"},
    {"better": "lower", "scale": "number"},
    {"better": "neither", "scale": "number"},
)


def metric(after: float | None, kind: dict[str, str], before: float | None = None, **more: Any) -> dict[str, Any]:
    """A metric as `ftune eval` writes it: of one model, or of two with the difference between them."""
    found = {"after": after, "rows": 100, "missing": 0, "kind": kind, **more}
    if before is not None and after is not None:
        found |= {"before": before, "difference": after - before, "low": after - before - 0.02, "high": 0.9}
    return found


def evaluated(folder: Path, metrics: dict[str, Any], **facts: Any) -> Path:
    (folder / "eval").mkdir(parents=True)
    (folder / "ftune.json").write_text('{"state": "done"}')
    content = {"rows": 100, "source": "test.jsonl", "models": {"before": "base", "after": "x"}, "metrics": metrics}
    (folder / "eval" / "eval.json").write_text(json.dumps(content | facts))
    return folder


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two runs with an evaluation and one without."""
    monkeypatch.chdir(tmp_path)
    first = {"rouge1": metric(0.4, SHARE, 0.21), "perplexity": metric(12.5, LOWER), "length": metric(20.0, LENGTH)}
    second = {"rouge1": metric(0.352, SHARE, 0.21), "perplexity": metric(8.25, LOWER), "extra": metric(0.5, SHARE)}
    (tmp_path / "runs" / "raw").mkdir(parents=True)
    (tmp_path / "runs" / "raw" / "ftune.json").write_text('{"state": "done"}')
    return [
        evaluated(tmp_path / "runs" / "lora", first),
        tmp_path / "runs" / "raw",
        evaluated(tmp_path / "runs" / "full", second),
    ]


def test_one_line_a_run_one_column_a_metric_and_the_best_marked(three: list[Path]) -> None:
    assert comparison_table(compare_runs(three)).split("\n") == [
        "run        rouge1                     perplexity  length  extra",
        "runs/lora  40.0%* +19.0 [17.0, 90.0]  12.5        20          -",
        "runs/full  35.2%  +14.2 [12.2, 90.0]  8.25*        -      50.0%",
        "",
        "* the best value; beside it the difference to the model before [95 % interval]",
        "not evaluated: runs/raw (no evaluation yet: ftune eval runs/raw)",
    ]


def test_json_has_every_number(three: list[Path]) -> None:
    found = json.loads(json.dumps(compare_runs(three).as_dict()))
    assert [run["run"] for run in found["runs"]] == ["runs/lora", "runs/raw", "runs/full"]
    assert found["runs"][0]["metrics"]["rouge1"]["difference"] == pytest.approx(0.19)
    assert "no evaluation yet" in found["runs"][1]["fault"]
    assert found["best"] == {"rouge1": ["runs/lora"], "perplexity": ["runs/full"], "length": [], "extra": []}
    assert found["warnings"] == []


def test_equal_values_are_all_the_best(three: list[Path]) -> None:
    content = json.loads((three[0] / "eval/eval.json").read_text())
    content["metrics"]["perplexity"]["after"] = 8.25
    (three[0] / "eval/eval.json").write_text(json.dumps(content))
    assert compare_runs(three).best("perplexity") == ["runs/lora", "runs/full"]


@pytest.mark.parametrize("facts", [{"rows": 99}, {"source": "other.jsonl"}])
def test_different_rows_are_said_and_nothing_is_best(three: list[Path], facts: dict[str, Any]) -> None:
    other = evaluated(three[0].parent / "other", {"rouge1": metric(0.9, SHARE)}, **facts)
    compared = compare_runs([*three, other])
    assert compared.best("rouge1") == []
    assert "*" not in comparison_table(compared)
    (warning,) = compared.warnings()
    assert "evaluated on different rows" in warning
    assert "runs/other: 99 rows of test.jsonl" in warning or "runs/other: 100 rows of other.jsonl" in warning


def test_two_ways_to_write_one_path_are_the_same_rows(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").touch()
    other = evaluated(three[0].parent / "other", {"rouge1": metric(0.9, SHARE)}, source=str(tmp_path / "test.jsonl"))
    assert compare_runs([*three, other]).best("rouge1") == ["runs/other"]


def test_other_bases_and_rows_that_were_left_out_are_said(three: list[Path]) -> None:
    found = {"rouge1": metric(0.9, SHARE, 0.5, rows=97)}
    other = evaluated(three[0].parent / "other", found, models={"before": "bigger", "after": "y"})
    assert compare_runs([*three, other]).warnings() == [
        "differences are to different models: base, bigger",
        "rouge1: of 97 rows in one run and 100 in another",
    ]


@pytest.mark.parametrize(
    "text", ["{", "[]", "\xff", '{"metrics": 3}', '{"metrics": {"a": 1, "b": {"after": "x"}, "c": {"after": NaN}}}']
)
def test_broken_evaluations_are_faults_of_their_runs(three: list[Path], text: str) -> None:
    (three[2] / "eval/eval.json").write_bytes(text.encode("latin-1"))
    (fault,) = [run.fault for run in compare_runs(three).runs if run.run == "runs/full"]
    assert fault.startswith("eval.json ")


def test_without_any_evaluation_there_is_nothing_to_compare(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no evaluation to compare.*\nruns/raw: .*\nnowhere: no run of ftune"):
        compare_runs([three[1], tmp_path / "nowhere"])


def test_a_folder_of_results_of_its_own_counts_too(three: list[Path]) -> None:
    assert not compare_runs([three[0] / "eval"]).runs[0].fault


def test_no_control_codes_come_from_files(three: list[Path]) -> None:
    other = evaluated(three[0].parent / "a\x1b[31mb", {"x\x1b[1m": metric(1, SHARE)}, source="\x1b[2m")
    assert "\x1b" not in comparison_table(compare_runs([*three, other]))


NUMBERS = st.none() | st.floats(-1e7, 1e7)
VALUES = st.builds(
    Value,
    after=NUMBERS,
    difference=NUMBERS,
    low=NUMBERS,
    high=NUMBERS,
    rows=st.none() | st.integers(0, 10**6),
    better=st.sampled_from(["higher", "lower", "neither"]),
    scale=st.sampled_from(["points", "number"]),
)
RUNS = st.builds(
    EvaluatedRun, run=st.text("abc/", min_size=1, max_size=60), rows=st.just(5),
    metrics=st.dictionaries(st.text("abc", min_size=1, max_size=70), VALUES, max_size=12),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(RUNS, min_size=1, max_size=4, unique_by=lambda run: run.run))
def test_every_table_fits_and_shows_every_run_in_every_block(runs: list[EvaluatedRun]) -> None:
    *blocks, _ = [*comparison_table(RunComparison(runs)).split("\n\n"), ""]
    tables = [block.split("\n") for block in blocks if block.startswith("run ")]
    assert all(len(line) <= 80 for table in tables for line in table)
    assert all(len(table) == 1 + len(runs) for table in tables)
    assert bool(tables) == any(run.metrics for run in runs)
