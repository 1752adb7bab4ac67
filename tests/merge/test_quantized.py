"""Models in fewer bits: what is written loads by itself and computes about the same; what cannot be is said first."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from ftune.core.checkpoints import verify
from ftune.core.errors import LaunchError, ModelError
from ftune.merge.engines import quantized as engine
from ftune.merge.engines.quantized import quantize_folder
from ftune.merge.quantized import kind as kinds
from ftune.merge.quantized.kind import Kind, quantization_fault

CLOSE = {"nf4": 0.4, "int8": 0.1, "fp8": 0.15}
"""How far a kind may move logits, as a share of their standard deviation."""


@pytest.fixture(scope="module")
def config() -> LlamaConfig:
    """Sizes that every kind can hold: bitsandbytes' product on some CPUs wants multiples of 32."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaConfig(vocab_size=320, initializer_range=0.08, tie_word_embeddings=True, **sizes, **heads)


@pytest.fixture(scope="module")
def source(config: LlamaConfig, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder with everything that belongs to one."""
    folder = tmp_path_factory.mktemp("source") / "model"
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7, "top_p": 0.9}')
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    (folder / "README.md").write_text("# a card\n")
    return folder


def logits(folder: Path) -> torch.Tensor:
    """As anybody gets them who has the folder."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        made: torch.Tensor = model.eval()(input_ids=torch.arange(3, 60)[None]).logits[0].float()
    return made


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_the_folder_is_smaller_loads_plainly_and_computes_about_the_same(
    source: Path, tmp_path: Path, kind: Kind
) -> None:
    if fault := quantization_fault(kind, "cpu"):
        pytest.skip(fault)
    target = tmp_path / kind
    done = quantize_folder(source, target, kind, "cpu", max_shard_size=50_000)
    assert (done.matrices, done.whole) == (14, ("lm_head",))
    assert verify(target) == []
    assert len(list(target.glob("*.safetensors"))) > 2
    assert not list(target.glob("*.bin"))
    weights = {name: tensor for file in target.glob("*.safetensors") for name, tensor in load_file(file).items()}
    whole = load_file(source / "model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], whole["model.embed_tokens.weight"])
    assert sum(map(size, weights.values())) < 0.75 * sum(map(size, whole.values()))
    expected, found = logits(source), logits(target)
    moved = ((found - expected).square().mean().sqrt() / expected.std()).item()
    assert 1e-4 < moved < CLOSE[kind]
    for path in source.iterdir():
        if path.name not in {"config.json", "model.safetensors"}:
            assert (target / path.name).read_bytes() == path.read_bytes()
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def test_what_is_missing_is_said_before_any_work(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantization_fault("nf4", "cpu") == quantization_fault("int8", "cpu") == ""
    monkeypatch.setattr(kinds, "find_spec", lambda package: package)
    assert "needs an NVIDIA GPU" in quantization_fault("int4", "cpu")
    monkeypatch.setattr(kinds, "find_spec", lambda package: None)
    assert quantization_fault("nf4", "cpu").endswith("pip install 'ftune[quantization]'")
    assert quantization_fault("fp8", "cpu").endswith("pip install 'ftune[torchao]'")
    with pytest.raises(LaunchError, match="needs the torchao package"):
        quantize_folder(source, tmp_path / "out", "int4", "cpu")
    assert list(tmp_path.iterdir()) == []


def test_models_that_a_causal_one_has_no_place_for_are_refused(
    config: LlamaConfig, source: Path, tmp_path: Path
) -> None:
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "scores")
    shutil.copytree(source, tmp_path / "less")
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "less" / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(source, tmp_path / "done")
    written = json.loads((source / "config.json").read_text())
    (tmp_path / "done" / "config.json").write_text(
        json.dumps({**written, "quantization_config": {"quant_method": "gptq"}})
    )
    for name, cause in [
        ("scores", "has no place for 1 tensors (score.weight)"),
        ("less", "misses 1 tensors (model.norm.weight)"),
        ("done", "is quantised already (gptq)"),
        ("none", "holds no readable config.json"),
    ]:
        with pytest.raises(ModelError) as caught:
            quantize_folder(tmp_path / name, tmp_path / "made" / "out", "int8", "cpu")
        assert cause in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made" / "out").exists()
    for target in (source, source / "int8", source.parent):
        with pytest.raises(ModelError, match="is not apart from"):
            quantize_folder(source, target, "int8", "cpu")


def test_a_model_that_is_not_finite_is_not_written(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][0] = torch.inf
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite; nothing was written"):
        quantize_folder(broken, tmp_path / "made" / "out", "int8", "cpu")
    assert [path.name for path in (tmp_path / "made").rglob("*") if path.is_file()] == []


def test_a_broken_file_is_one_line(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    (broken / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        quantize_folder(broken, tmp_path / "made" / "out", "nf4", "cpu")
    assert str(caught.value).startswith(f"{broken}: cannot be stored as nf4: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made" / "out").exists()


def test_a_file_that_computes_something_else_is_told() -> None:
    right = torch.linspace(-1, 1, 9)
    engine._compare(Path("out"), right + 0.009, right)
    with pytest.raises(ModelError, match=r"computes something else than the one in memory \(logits 2.0% apart\)"):
        engine._compare(Path("out"), right + 0.02, right)
