"""An adapter and a model to be broken, and merges that have to be refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Done

Run = Callable[..., Done]
Refused = Callable[..., str]
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A LoRA adapter of the tiny model, and the tiny model in shards, both to be copied and broken."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    shutil.copytree(tiny_model, root / "shards", ignore=shutil.ignore_patterns(WEIGHTS))
    model.save_pretrained(root / "shards", max_shard_size="30KB")
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(root / "adapter")
    return root


@pytest.fixture
def adapter(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the adapter; the test's folder is the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the model."""
    shutil.copytree(tiny_model, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def shards(tmp_path: Path, made: Path) -> Path:
    """A copy of the model in shards."""
    shutil.copytree(made / "shards", tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def refused(ftune: Run, tmp_path: Path, adapter: Path) -> Refused:
    """Merges `words` and gives the one line that says why not, when nothing was written."""

    def merge(*words: object, output: object = "out/merged", code: int = 2) -> str:
        before = _files(tmp_path)
        done = ftune("merge", *words, *([] if output is None else ["--output", output]))
        assert done.code == code, done.err
        errors = [line for line in done.err.splitlines() if not line.startswith(("merging ", "  ", "warning: "))]
        assert len(errors) == 1, done.err
        assert errors[0].startswith("error: ")
        assert "Traceback" not in done.err
        assert _files(tmp_path) == before
        assert not Path("out/merged").exists()
        return errors[0].removeprefix("error: ")

    return merge


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(file: Path, **keys: object) -> None:
    """Other values in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def edit(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other tensors in a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def a_run(folder: Path, adapter: Path, base: Path, state: str = "done", **sections: object) -> Path:
    """A run folder as `ftune sft` leaves it, around an adapter."""
    shutil.copytree(adapter, folder / "adapter")
    recipe = {"type": "sft", "model": {"path": str(base)}, "peft": {"type": "lora"}, "data": {"train": "x.jsonl"}}
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe | sections))
    (folder / "ftune.json").write_text(json.dumps({"state": state}))
    return folder
