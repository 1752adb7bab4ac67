"""What the benchmark of backends makes of its settings and numbers; its runs are started by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftune.recipes.load import load_recipe

Names = dict[str, Any]


def test_state_is_that_of_the_zero_paper(module: Callable[[str], Names]) -> None:
    settings = module("backends_parts/settings.py")
    state = settings["bytes_per_parameter"]
    # Figure 1 of arXiv:1910.02054: 7.5 billion parameters on 64 devices, in 10^9 bytes
    figure = {"ddp": 120.0, "zero1": 31.4, "zero2": 16.6, "zero3": 1.9}
    assert {name: round(7.5 * state(name, 64), 1) for name in figure} == figure
    assert all(state(setting.name, 2) >= 0 for setting in settings["SETTINGS"])


def test_settings_are_valid_recipes(module: Callable[[str], Names], tmp_path: Path) -> None:
    made = module("backends_parts/material.py")
    path = made["write_recipe"](tmp_path, made["TINY"], 24, "bf16", "never")
    for setting in module("backends_parts/settings.py")["SETTINGS"]:
        words = setting.overrides(2, micro=2, steps=24, drive=str(tmp_path))
        recipe: Any = load_recipe("sft", path, words, elsewhere={"backend", "model", "data"}).recipe
        assert recipe.backend.type == setting.backend["type"]
        assert recipe.batch.accumulation(1 if setting.alone else 2) == (2 if setting.same_rows else 1)


def test_what_has_a_result_is_not_run_again(module: Callable[[str], Names]) -> None:
    plan = module("backends.py")["plan"]
    names = [(setting.name, gpus) for setting, gpus in plan([], [2, 4], {("single", 1), ("ddp", 2)})]
    assert names[:2] == [("ddp", 4), ("zero2", 2)]
    assert ("single", 1) not in names
    assert len(names) == len(set(names))
    assert [(setting.name, gpus) for setting, gpus in plan(["fsdp", "single"], [4], set())] == [
        ("fsdp", 4),
        ("single", 1),
    ]


def test_the_table_has_scaling_memory_and_differences(module: Callable[[str], Names]) -> None:
    common = {"parameters": 2**30, "run_s": 40.0, "save_s": 5.0, "fault": ""}
    single = {**common, "setting": "single", "gpus": 1, "tokens_per_s": 100.0, "memory_gib": 20.0, "losses": [4.0]}
    reference = {**common, "setting": "same-rows", "gpus": 1, "rows_of": 2, "losses": [4.0, 2.0]}
    zero3 = {**single, "setting": "zero3", "gpus": 2, "tokens_per_s": 190.0, "memory_gib": 13.0, "losses": [4.0, 2.1]}
    failed = {"setting": "ddp", "gpus": 2, "error": "error: out | of memory"}
    lines = module("backends_parts/table.py")["markdown"]([failed, zero3, reference, single]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[2:]] == ["single", "ddp", "zero3", "same-rows (of 2)"]
    found = dict(zip(rows[0], rows[4], strict=True))
    # 16 bytes for 2^30 parameters are 16 GiB; what the single process had beyond them is 4 GiB
    assert (found["scaling"], found["state GiB"], found["+ activations"]) == ("1.90", "8.0", "12.0")
    assert (found["measured GiB"], found["loss differs"], found["result"]) == ("13.0", "5.0e-02", "whole")
    assert rows[3][-1] == "error: out / of memory"


def test_the_last_error_is_told(module: Callable[[str], Names]) -> None:
    last_error = module("backends_parts/running.py")["last_error"]
    assert last_error("a\nerror: rank 1 was killed\n\n  see logs\n") == "error: rank 1 was killed"
    assert last_error("one\ntwo\n") == "two"
    assert last_error("") == "nothing was said"
