"""The benchmark of merging in its try-out size, and what it makes of what it finds."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe

Names = dict[str, Any]


def test_both_ways_give_the_same_model(module: Callable[[str], Names], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    material = module("merge_parts/material.py")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    material["_write"](tmp_path, material["SHAPES"]["tiny"])
    assert len(list(base.glob("*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "theirs")
    recipe = {"sources": str(adapter), "base": str(base), "output": str(tmp_path / "ours"), "verify": None}
    MergeRecipe.model_validate(recipe).execute(RunOptions("", "ftune merge"))
    difference = module("merge_parts/comparing.py")["difference"]
    found = difference(tmp_path / "theirs", tmp_path / "ours")
    assert found.values == sum(parameter.numel() for parameter in model.parameters())
    assert found.further == 0
    assert found.differing < found.values / 1000
    assert difference(base, tmp_path / "ours").differing > found.values / 4  # the adapter changes every layer


def test_material_is_the_same_each_time(module: Callable[[str], Names], tmp_path: Path) -> None:
    material = module("merge_parts/material.py")
    contents = []
    for name in ("one", "other"):
        (tmp_path / name / "base").mkdir(parents=True)
        material["_write"](tmp_path / name, material["SHAPES"]["tiny"])
        files = [
            file for folder in ("base", "adapter") for file in sorted((tmp_path / name / folder).glob("*.safetensors"))
        ]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
    with safe_open(tmp_path / "one" / "adapter" / "adapter_model.safetensors", framework="pt") as tensors:
        assert all(tensors.get_tensor(name).count_nonzero() for name in tensors.keys())  # noqa: SIM118


def test_differences_are_counted_in_steps_of_the_dtype(module: Callable[[str], Names], tmp_path: Path) -> None:
    one = torch.tensor([1.0, 0.0, -2.0, 3.0, 2.0**-100], dtype=torch.bfloat16)
    other = torch.tensor([1.0 + 2**-7, -0.0, -2.0, 3.5, -(2.0**-100)], dtype=torch.bfloat16)
    for name, value in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        save_file({"w": value}, tmp_path / name / "model.safetensors")
    found = module("merge_parts/comparing.py")["difference"](tmp_path / "one", tmp_path / "other")
    assert (found.values, found.differing, found.further, found.largest) == (5, 3, 2, 0.5)


def test_a_program_is_watched_with_those_it_starts(module: Callable[[str], Names]) -> None:
    hold = "import sys, time; x = bytearray(b'x') * (%d << 20); time.sleep(0.3); print('held', file=sys.stderr)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold % 64!r}], check=True); {hold % 32}"
    watch = module("merge_parts/watching.py")["watch"]
    watched = watch([sys.executable, "-c", start], dict(os.environ))
    assert [line for _, line in watched.said] == ["held", "held"]
    assert watched.said[0][0] < watched.said[1][0] <= watched.seconds
    assert 64 / 1024 < watched.anonymous_gib < 96 / 1024 < watched.resident_gib  # not both at one time
    with pytest.raises(RuntimeError, match="ended with 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))


def test_the_table_takes_the_fastest_and_compares(module: Callable[[str], Names]) -> None:
    def result(way: str, seconds: float, gib: float) -> dict[str, Any]:
        memory = {"anonymous_gib": gib, "resident_gib": 2 * gib}
        return {"way": way, "seconds": seconds, "durable_s": seconds, "cpu_s": seconds, "bytes": 10**9, **memory}

    results = [
        result("PEFT", 40, 15),
        result("ftune merge", 25, 3),
        result("PEFT", 50, 15),
        result("ftune merge", 10, 3),
    ]
    lines = module("merge.py")["markdown"](results).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:]] == ["PEFT", "ftune merge", "ftune beside PEFT"]
    assert rows[3][1:] == ["10.00", "10.00", "10.00", "3.00", "6.00", "100"]
    assert rows[4][1:] == ["4.00 x less", "4.00 x less", "4.00 x less", "5.00 x less", "5.00 x less", ""]
