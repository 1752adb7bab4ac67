"""Merges that fail their proof or are killed: there is a whole model in the output folder, or none."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.core.checkpoints import STAGING, verify
from tests.conftest import Done
from tests.forked import Forked
from tests.merge.killed import die_everywhere

Run = Callable[..., Done]


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA adapter of the tiny model in the working folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(r=4, init_lora_weights=False)).save_pretrained("adapter")
    return tmp_path / "adapter"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """A merge that adds the adapter twice."""
    from ftune.merge.engines.adapter import AdapterSource

    right, base = AdapterSource.merged, load_file(tiny_model / "model.safetensors")
    monkeypatch.setattr(AdapterSource, "merged", lambda self, name, *rest: 2 * right(self, name, *rest) - base[name])


def test_a_failed_proof_leaves_the_model_aside(ftune: Run, adapter: Path, tmp_path: Path, doubled: None) -> None:
    done = ftune("merge", "adapter", "--output", "merged")
    assert done.code == 1
    assert "error: merged.failed: " in done.err
    assert "rounding to fp32 explains 1e-08" in done.err
    assert done.err.rstrip().endswith("nothing was put into merged")
    assert "Traceback" not in done.err
    assert "ok:" not in done.err
    assert not (tmp_path / "merged").exists()
    assert (tmp_path / "merged.failed/model.safetensors").is_file()
    assert not (tmp_path / STAGING).exists()
    assert ftune("merge", "adapter", "--output", "merged").code == 1
    assert (tmp_path / "merged.failed-2/model.safetensors").is_file()


def test_an_earlier_model_is_kept_until_the_new_one_is_proved(
    ftune: Run, adapter: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert ftune("merge", "adapter", "--output", "merged", "--no-verify").code == 0
    before = content(tmp_path / "merged")
    done = ftune("merge", "adapter", "--output", "merged", "--dtype", "bf16")
    assert done.code == 2
    assert "merged holds a model; --overwrite replaces it" in done.err
    assert content(tmp_path / "merged") == before
    assert ftune("merge", "adapter", "--output", "merged", "--dtype", "bf16", "--overwrite").code == 0
    assert verify(tmp_path / "merged") == []
    after = content(tmp_path / "merged")
    assert len(after["model.safetensors"]) < len(before["model.safetensors"])
    request.getfixturevalue("doubled")
    assert ftune("merge", "adapter", "--output", "merged", "--overwrite").code == 1
    assert content(tmp_path / "merged") == after


every_step = pytest.mark.slow


@pytest.mark.parametrize(
    ("earlier", "stride"),
    [(True, 9), pytest.param(True, 1, marks=every_step), pytest.param(False, 1, marks=every_step)],
)
def test_killed_at_any_step_there_is_a_whole_model_or_none(
    earlier: bool, stride: int, ftune: Run, adapter: Path, tmp_path: Path
) -> None:
    merge = ("merge", "adapter", "--no-verify", "--overwrite")
    old = tmp_path / "old"
    if earlier:
        assert ftune("merge", "adapter", "--no-verify", "--dtype", "bf16", "--output", old).code == 0
    out, told = tmp_path / "out", tmp_path / "told.jsonl"
    out.mkdir()
    before = partial(die_everywhere, out, out / "merged", old if earlier else None, stride, told)
    process = Forked(*merge, "--output", out / "merged", cwd=tmp_path, before=before)
    assert process.wait() == [0], process.said()
    found = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line["killed"] for line in found] == [True] * (len(found) - 1) + [False]
    assert len(found) > 20 / stride
    assert all(line["problems"] in (None, []) for line in found), found
    states = [line["dtype"] for line in found]
    new = states.index("float32")
    assert set(states[new:]) == {"float32"}
    assert set(states[:new]) <= {"bfloat16" if earlier else None, None}  # steps are moved by what a kill before left
    assert states[0] == ("bfloat16" if earlier else None)
    assert states.count(None) <= (len(found) if not earlier else 2)
    assert verify(out / "merged") == []
    assert [path.name for path in out.iterdir()] == ["merged"]
    shutil.rmtree(out)
