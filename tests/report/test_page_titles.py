"""Metrics on the page: their names, how their numbers are written, and what is said where all rows changed alike."""

import json
from pathlib import Path

import pytest

from ftune.report.page.evaluation import Row, comparison
from ftune.report.page.titles import metric_title
from ftune.report.run_record import read_run
from tests.report.page_runs import sft_run


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("exact_match", "Exact match"),
        ("rouge1", "ROUGE-1"),
        ("rougeL_precision", "ROUGE-L precision"),
        ("json_f1", "JSON F1"),
        ("chrf", "chrF"),
        ("repetition_3", "Repeated 3-grams"),
        ("distinct_12", "Different 12-grams"),
        ("length_words", "Length in words"),
        ("my_length_words", "My length words"),
        ("general_text_perplexity", "Perplexity of general text"),
        ("hellaswag acc_norm", "Hellaswag acc norm"),
        ("", ""),
    ],
)
def test_names_are_those_that_people_use(name: str, title: str) -> None:
    assert metric_title(name) == title


def row(folder: Path, **values: object) -> Row:
    """The row of one metric in a run's evaluation."""
    run = sft_run(folder, steps=1)
    (run / "eval/eval.json").write_text(json.dumps({"rows": 24, "metrics": {"json_valid": values}}))
    found = comparison(read_run(run))
    assert found is not None
    return found.rows[0]


def test_shares_are_written_in_percent(tmp_path: Path) -> None:
    kind = {"better": "higher", "scale": "share"}
    made = row(tmp_path / "run", before=0.25, after=0.2, difference=-0.05, low=-0.1, high=0.0125, kind=kind)
    assert (made.before, made.after, made.difference) == ("25.0%", "20.0%", "−5.0%")
    assert (made.interval, made.verdict) == ("−10.0% to +1.2%", "unsure")


@pytest.mark.parametrize(
    ("better", "worse", "rows", "verdict"),
    [(24, 0, 24, "better"), (0, 24, 24, "worse"), (23, 0, 24, ""), (1, 0, 1, ""), (0, 0, 24, ""), (None, None, 0, "")],
)
def test_rows_that_all_changed_alike_need_no_interval(
    better: int | None, worse: int | None, rows: int, verdict: str, tmp_path: Path
) -> None:
    made = row(tmp_path / "run", before=0.0, after=1.0, low=None, high=None, better=better, worse=worse, rows=rows)
    assert (made.interval, made.verdict) == ("", verdict)
