"""The benchmark of scaling: what it runs on how many GPUs, and what it makes of stored results."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.plan.gpus import find_gpu
from ftune.recipes.load import load_recipe

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
Names = dict[str, Any]


def result(setting: str, gpus: int, tokens_per_s: float, machine: int = 4, **more: object) -> dict[str, Any]:
    """A measured run."""
    common = {"kind": "sft", "date": "2026-11-23", "command": "scale", "device": "H200", "losses": [4.0, 2.0]}
    speed = {"tokens_per_s": tokens_per_s, "memory_gib": 50.0, "predicted_gib": 51.0}
    return {"setting": setting, "gpus": gpus, "rows_of": 0, "machine": machine, **speed, **common, **more}


RESULTS = [
    result("1B DDP", 1, 100.0, machine=2),
    result("1B DDP", 1, 110.0),
    result("1B DDP", 2, 190.0, machine=2),
    result("1B DDP", 4, 418.0, losses=[4.0, 2.2]),
    result("1B FSDP2", 4, 396.0),
    result("1B same rows", 1, 90.0, kind="same rows", rows_of=4),
    result("8B ZeRO-3", 2, 30.0),
    result("8B ZeRO-3", 4, 54.0),
    result("8B FSDP2", 4, 60.0, losses=[4.0, 2.1]),
    {"setting": "8B FSDP2", "kind": "sft", "gpus": 1, "rows_of": 0, "machine": 4, "left_out": "150.0 GiB predicted"},
    {"setting": "1B ZeRO-2", "kind": "sft", "gpus": 4, "rows_of": 0, "machine": 4, "error": "lost"},
    {
        **{
            "setting": "8B PPO",
            "kind": "ppo",
            "gpus": 4,
            "rows_of": 0,
            "machine": 4,
            "completions": 256,
            "iteration_s": 7.5,
        },
        **{"parts_s": {"rollout": 3.0, "update": 4.5}, "memory_gib": 60.0, "predicted_gib": 62.5},
    },
    {
        **{
            "setting": "kill",
            "kind": "kill",
            "gpus": 4,
            "rows_of": 0,
            "machine": 4,
            "backend": "fsdp",
            "in_a_save": True,
        },
        **{"ended_after_s": 5.2, "exit_code": 137, "named": True, "resumed_from": 6, "resumed_exit_code": 0},
        "losses_differ": 1e-6,
    },
]


def test_all_gpus_come_first_and_one_is_right_behind_with_ddp(module: Callable[[str], Names]) -> None:
    settings = module("scale_parts/settings.py")
    jobs = settings["jobs"]
    names = [(job.setting.name, job.gpus, job.rows_of) for job in jobs(8)]
    assert names[:4] == [("kill", 8, 0), ("1B DDP", 8, 0), ("1B DDP", 1, 0), ("1B ZeRO-3", 8, 0)]
    assert len(names) == len(set(names))
    for setting in settings["SETTINGS"]:
        found = [(gpus, rows) for name, gpus, rows in names if name == setting.name]
        wanted = {"kill": [(8, 0)], "same rows": [(1, 8), (1, 4), (1, 2)]}
        assert set(found) == set(wanted.get(setting.kind, [(8, 0), (4, 0), (2, 0), (1, 0)]))
    assert {job.setting.kind for job in jobs(1)} == {"sft", "ppo"}
    assert [(job.setting.name, job.gpus) for job in jobs(3, ["8B F*"])] == [
        ("8B FSDP2", 3),
        ("8B FSDP2", 2),
        ("8B FSDP2", 1),
    ]


def test_what_other_machines_measured_counts_but_for_one_gpu(module: Callable[[str], Names]) -> None:
    settings = module("scale_parts/settings.py")
    left = [job for job in settings["jobs"](8) if not settings["is_done"](job, RESULTS, 8, retry=False)]
    names = {(job.setting.name, job.gpus) for job in left}
    assert {("1B DDP", 1), ("1B DDP", 8), ("8B FSDP2", 1), ("kill", 8)} <= names
    assert not {("1B DDP", 4), ("1B ZeRO-2", 4), ("8B PPO", 4)} & names
    failed = next(job for job in settings["jobs"](8) if job.key == ("1B ZeRO-2", 4, 0))
    assert not settings["is_done"](failed, RESULTS, 8, retry=True)


def test_runs_are_valid_recipes(module: Callable[[str], Names], tmp_path: Path) -> None:
    material = module("scale_parts/material.py")["Material"](tmp_path, tiny=True)
    for job in module("scale_parts/settings.py")["jobs"](4):
        model = tmp_path / job.setting.model
        model.mkdir(exist_ok=True)
        words = [] if job.setting.kind == "kill" else job.words(material.sizes[job.setting.model])
        kind = "ppo" if job.setting.kind == "ppo" else "sft"
        elsewhere = {"backend", "model", "data", "rewards"}
        recipe: Any = load_recipe(kind, material.recipe(job), words, elsewhere=elsewhere).recipe
        if job.setting.kind == "same rows":
            assert recipe.batch.accumulation(1) == job.rows_of
        elif job.setting.kind == "sft":
            assert (recipe.backend.known_processes, recipe.batch.accumulation(job.gpus)) == (job.gpus, 1)
            assert recipe.batch.activation_checkpointing == (job.setting.model == "8B")


def test_what_does_not_fit_is_told_by_the_plan(
    module: Callable[[str], Names], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ftune.recipes.runs.plan_command.gpu_here", lambda: find_gpu("h100"))
    too_large = module("scale_parts/measuring.py")["too_large"]
    material = module("scale_parts/material.py")["Material"](tmp_path, tiny=False)
    (tmp_path / "8B/model").mkdir(parents=True)
    shape = module("plan_parts/settings.py")["SHAPES"]["8B"]
    (tmp_path / "8B/model/config.json").write_text(json.dumps(shape), encoding="utf-8")
    said = {
        job.gpus: too_large(material.recipe(job), job.words(material.sizes["8B"]))
        for job in module("scale_parts/settings.py")["jobs"](4, ["8B FSDP2"])
    }
    assert said[4] == ""
    assert said[1].endswith("GiB predicted, the GPU has 79.1")


def test_efficiency_is_against_one_gpu_of_the_machine_or_the_fewest_that_fit(module: Callable[[str], Names]) -> None:
    efficiency = module("scale_parts/table.py")["efficiency"]
    found = {
        (each["setting"], each["gpus"]): efficiency(each, RESULTS)
        for each in RESULTS
        if each["kind"] == "sft" and "losses" in each
    }
    assert found[("1B DDP", 4)] == pytest.approx(418 / 440)
    assert found[("1B DDP", 2)] == pytest.approx(190 / 200)
    assert found[("1B FSDP2", 4)] == pytest.approx(396 / 440)
    assert found[("8B ZeRO-3", 4)] == pytest.approx(0.9)
    assert found[("8B FSDP2", 4)] == 1.0


def test_the_table_and_the_picture_are_made_from_stored_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in RESULTS), encoding="utf-8")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr("sys.argv", ["scale.py", "--results", str(file), "--table"])
    runpy.run_path(str(FOLDER / "scale.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == said
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    lines = said.splitlines()
    rows = {
        tuple(cells[:2]): cells
        for line in lines
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 5
    }
    assert rows[("1B DDP", "1")][2:4] == ["110", "1.000"]
    assert rows[("1B DDP", "4")][2:7] == ["418", "0.950", "51.0", "50.0", "1.0e-01"]
    assert rows[("8B FSDP2", "4")][6] == "5.0e-02 (from 8B ZeRO-3)"
    assert rows[("LoRA, shared base", "4")][2:] == ["256", "7.50", "3.00", "4.50", "62.5", "60.0"]
    assert "- 8B FSDP2 on 1: left out, does not fit: 150.0 GiB predicted" in lines
    assert "- 1B ZeRO-2 on 4: failed: lost" in lines
    assert any("killed in a save, the run ended after 5.2 s with 137 (naming the rank)" in line for line in lines)
    assert "4 x H200, 2026-11-23: `scale`" in lines
