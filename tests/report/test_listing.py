"""`ftune runs` and `ftune plot`: what they show of whole, killed and broken runs."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ftune.cli.main import app
from ftune.core.checkpoints import commit_folder, stage_folder
from ftune.core.errors import RecipeError
from ftune.report.listing import find_runs, table_of
from ftune.report.run_record import read_run
from ftune.report.terminal import draw_run
from tests.report.page_runs import killed_run, ppo_run, sft_run, start_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    sft_run(tmp_path / "sft")
    ppo_run(tmp_path / "deep" / "ppo")
    killed_run(tmp_path / "killed")
    shutil.rmtree(sft_run(tmp_path / "plain") / "eval")
    start_run(tmp_path / "empty", "failed", {"type": "rm"}, "")
    start_run(tmp_path / "broken", "done", {}, "")
    (tmp_path / "broken" / "events.jsonl").write_text('x\n{"time": "2026-11-22T10:00:00+00:00", "kind": "end"}\n')
    start_run(tmp_path / "stateless", "", {}, "")
    (tmp_path / "stateless" / "ftune.json").write_text("{")
    (tmp_path / "stateless" / "recipe.resolved.json").write_bytes(b"\xff\xfe[")
    sft_run(tmp_path / "sft" / "within")
    (tmp_path / "notes").mkdir()
    model = stage_folder(tmp_path / "models" / "merged")
    (model / "config.json").write_text("{}")
    commit_folder(model, tmp_path / "models" / "merged")
    return tmp_path


def test_every_run_is_listed_whatever_its_state(runs: Path) -> None:
    listed = {Path(run.run).name: run for run in find_runs(runs)}
    assert listed.keys() == {"sft", "plain", "ppo", "killed", "empty", "broken", "stateless"}
    assert (listed["sft"].state, listed["sft"].steps, listed["sft"].metric, listed["sft"].metric_value) == (
        "done",
        60,
        "rouge1",
        0.4,
    )
    assert listed["sft"].validation_loss == pytest.approx(0.2453, abs=1e-3)
    assert (listed["ppo"].command, listed["ppo"].metric, listed["ppo"].metric_value) == ("ppo", "score", 0.9)
    assert (listed["killed"].state, listed["killed"].loss) == ("running", 2.5)
    assert (listed["empty"].state, listed["empty"].command, listed["empty"].updated) == ("failed", "rm", "")
    assert listed["broken"].state == "damaged"
    assert "events.jsonl:1" in listed["broken"].fault
    assert listed["stateless"].state == "unknown"
    with pytest.raises(RecipeError, match="merged is no run of ftune"):
        read_run(runs / "models" / "merged")


def test_the_table_is_aligned_and_says_when(runs: Path) -> None:
    found = find_runs(runs)
    table = table_of(found, datetime.now(UTC) + timedelta(hours=3, minutes=5))
    lines = table.split("\n")
    assert len(lines) == 1 + len(found) + 1
    assert lines[-1].startswith("damaged: ")
    place = lines[0].index("state")
    assert all(line[place - 1] == " " and line[place] != " " for line in lines[1:-1])
    assert lines[1].endswith("3 h ago")
    assert "score 0.9" in table
    assert "rouge1 0.4" in table
    assert "token accuracy 70%" in table


def test_json_is_for_machines(runs: Path) -> None:
    done = CliRunner().invoke(app, ["runs", str(runs), "--json"])
    assert {run["state"] for run in json.loads(done.stdout)} == {"done", "running", "failed", "damaged", "unknown"}


def test_names_bring_no_control_codes_to_the_terminal(tmp_path: Path) -> None:
    folder = killed_run(tmp_path / "a\x1b[31mb")
    (folder / "eval").mkdir()
    (folder / "eval" / "eval.json").write_text(json.dumps({"metrics": {"\x1b]0;x": {"after": 1}}}))
    texts = [table_of(find_runs(tmp_path)), draw_run(read_run(folder), (), 80, braille=True)]
    assert not [sign for text in texts for sign in text if not sign.isprintable() and sign != "\n"]
    assert "\\x1b[31mb" in texts[0]


def test_no_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no run of ftune in"):
        find_runs(tmp_path)
    with pytest.raises(RecipeError, match="is no folder"):
        find_runs(tmp_path / "none")


@pytest.mark.parametrize("width", [20, 60, 100, 160])
@pytest.mark.parametrize("braille", [True, False])
def test_charts_fit_the_terminal(tmp_path: Path, width: int, braille: bool) -> None:
    text = draw_run(read_run(sft_run(tmp_path / "run")), (), width, braille=braille)
    assert max(map(len, text.split("\n"))) <= width
    assert braille or text.isascii()
    titles = [line for line in text.split("\n") if "Loss" in line]
    assert ("Token accuracy" in titles[0]) == (width >= 100)


def test_fields_are_chosen_by_name(tmp_path: Path) -> None:
    run = read_run(ppo_run(tmp_path / "run"))
    text = draw_run(run, ["kl", "score_"[:-1]], 80, braille=False)
    assert text.startswith("run: done, iteration 12\n\nKL, nats a completion  4\n")
    assert "validation 0.1 to 0.7" in text
    with pytest.raises(RecipeError, match="did you mean 'clip_fraction'"):
        draw_run(run, ["clip_fractoin"], 80, braille=False)
    start_run(tmp_path / "empty", "failed", {}, "")
    with pytest.raises(RecipeError, match="no step yet"):
        draw_run(read_run(tmp_path / "empty"), (), 80, braille=False)


def test_the_commands_write_and_draw(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert CliRunner().invoke(app, ["report", "sft"]).stdout == "sft/report.html\n"
    assert CliRunner().invoke(app, ["report", "sft", "deep/ppo"]).stdout == "report.html\n"
    assert (runs / "report.html").read_text().startswith("<!doctype html>")
    assert "Loss" in CliRunner().invoke(app, ["plot", "sft", "loss"]).stdout
