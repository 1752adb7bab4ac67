"""What is said of a run's folder before anything is trained, by the run and by a dry run alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.report.run_folder import read_state
from tests.conftest import Done

Run = Callable[..., Done]
Write = Callable[..., Path]


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("output_dir", "code", "said"),
    [
        ("/", 2, "output_dir: / is not empty and holds no run of ftune; choose another folder"),
        (".", 2, "output_dir: . is not empty and holds no run of ftune; choose another folder"),
        ("rows.jsonl", 2, "output_dir: rows.jsonl is a file; give a folder"),
        ("rows.jsonl/run", 74, "rows.jsonl/run: Not a directory; check the path"),
    ],
)
def test_a_dry_run_refuses_the_folder_that_the_run_refuses(
    recipe: Write, ftune: Run, tmp_path: Path, output_dir: str, code: int, said: str
) -> None:
    path = recipe()
    before = contents(tmp_path)
    for words in ([], ["--dry-run"]):
        done = ftune("sft", path, f"output_dir={output_dir}", *words)
        assert (done.code, done.err) == (code, f"error: {said}\n")
    assert "peak" in done.out  # the plan comes first
    assert contents(tmp_path) == before


def test_a_dry_run_looks_at_the_run_in_the_folder_and_leaves_it(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path, run = recipe(), tmp_path / "runs/tiny"
    (tmp_path / "none").mkdir()
    assert ftune("sft", path, "data.train=none").code == 2
    assert read_state(run) == "failed"
    before = contents(tmp_path)
    anew = "runs/tiny holds a run that failed and left neither checkpoint nor result; it begins anew"
    assert ftune("sft", path, "--dry-run").out.endswith(f"\n{anew}\n")
    (run / "ftune.json").write_text(json.dumps({"state": "done"}))
    said = "this is what would be trained, but runs/tiny holds "
    done = ftune("sft", path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"\n{said}a finished run; use --overwrite to replace it, or output_dir=...\n")
    refused = ftune("sft", path)
    assert (refused.code, "use --overwrite to replace it, or output_dir=..." in refused.err) == (2, True)
    (run / "ftune.json").write_text(json.dumps({"state": "stopped"}))
    assert f"{said}a run; use --resume to go on, --overwrite to start" in ftune("sft", path, "--dry-run").out
    (run / "ftune.json").write_text(json.dumps({"state": "done"}))
    assert (
        "cannot resume with another recipe (data.train[0].path: was 'none'"
        in ftune("sft", path, "--dry-run", "--resume").err
    )
    assert ftune("sft", path, "--dry-run", "--overwrite").code == 0
    assert "choose one" in ftune("sft", path, "--dry-run", "--resume", "--overwrite").err
    assert contents(tmp_path) == before


def test_the_corrected_command_begins_anew_and_says_so(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(schedule={"max_steps": 1})
    (tmp_path / "none").mkdir()
    assert ftune("sft", path, "data.train=none").code == 2
    done = ftune("sft", path)
    assert done.code == 0, done.err
    assert done.err.startswith("runs/tiny holds a run that failed and left neither checkpoint nor result; it begins")


def test_a_resume_without_a_run_says_that_a_new_one_begins(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path, said = recipe(schedule={"max_steps": 1}), "runs/tiny holds no run to resume; a new one begins\n"
    assert ftune("sft", path, "--resume", "--dry-run").out.endswith(f"\n{said}")
    assert not (tmp_path / "runs").exists()
    done = ftune("sft", path, "--resume")
    assert done.code == 0
    assert done.err.startswith(said)


def test_a_dry_run_asks_for_rights_and_makes_nothing(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe()
    begun = tmp_path.stat().st_mtime_ns
    assert ftune("sft", path, "--dry-run", "output_dir=new/run").code == 0
    assert tmp_path.stat().st_mtime_ns == begun  # not even a folder that is gone again
