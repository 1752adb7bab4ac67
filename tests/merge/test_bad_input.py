"""What people get wrong when they merge: one line that says where, what and what to do; nothing is half written."""

import json
from pathlib import Path

import pytest
import torch

from tests.merge.conftest import ADAPTER, INDEX, WEIGHTS, Refused, a_run, change, edit


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_files_that_are_cut_off(refused: Refused, base: Path, adapter: Path, kept: float) -> None:
    for file in (base / WEIGHTS, adapter / ADAPTER):
        whole = file.read_bytes()
        file.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
        said = refused("adapter", "--base", "base")
        assert file.name in said
        assert "cut off" in said
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "header",
    [
        b"[1, 2]",
        b"7",
        b"{",
        b"\xff\xfe{}",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}',
        b'{"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_headers_that_are_broken(refused: Refused, base: Path, adapter: Path, header: bytes) -> None:
    for file in (base / WEIGHTS, adapter / ADAPTER):
        whole = file.read_bytes()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
        assert file.name in refused("adapter", "--base", "base")
        file.write_bytes(whole)


def test_shards_that_are_not_all_there(refused: Refused, shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    names = {"model.nothing.weight": WEIGHTS.replace("l.", "l-00001-of-00004.")}
    change(shards / INDEX, weight_map=index["weight_map"] | names)
    assert "base: its index names 'model.nothing.weight', in none of its files" in refused("adapter", "--base", "base")
    change(shards / INDEX, weight_map=index["weight_map"])
    (shards / "model-00002-of-00004.safetensors").unlink()
    assert "names 'model-00002-of-00004.safetensors', not there" in refused("adapter", "--base", "base")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}'])
def test_an_index_that_is_none(refused: Refused, shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content)
    assert f"{INDEX}: is no index of a model's files" in refused("adapter", "--base", "base")


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
)
def test_a_base_that_lacks_a_tensor(refused: Refused, base: Path, name: str) -> None:
    edit(base / WEIGHTS, lambda tensors: tensors.pop(name))
    said = refused("adapter", "--base", "base", "--no-verify")
    assert name in said
    assert "base" in said


def test_settings_that_cannot_be_read(refused: Refused, base: Path, adapter: Path) -> None:
    for file in (base / "config.json", base / "generation_config.json", adapter / "adapter_config.json"):
        whole = file.read_text()
        file.write_text("{")
        assert file.name in refused("adapter", "--base", "base")
        file.write_text(whole)


def test_values_that_are_not_finite(refused: Refused, base: Path, adapter: Path) -> None:
    edit(adapter / ADAPTER, lambda tensors: [value.mul_(1e4) for value in tensors.values()])
    said = refused("adapter", "--dtype", "fp16")
    assert "too large for fp16" in said
    assert "--dtype bf16 or fp32" in said
    edit(base / WEIGHTS, lambda tensors: tensors["model.norm.weight"][3].fill_(torch.nan))
    assert f"{WEIGHTS}: 'model.norm.weight' holds values that are not finite" in refused("adapter", "--base", "base")


def test_what_is_neither_a_run_nor_an_adapter_nor_a_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "'empty' holds neither a run, an adapter nor a model" in refused("empty")
    assert "no such folder here" in refused("nowhere")
    assert refused("runs/nowhere").startswith("runs/nowhere: there is no folder 'runs/nowhere' here; ")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert "'rows.jsonl' is not a model" in refused("rows.jsonl")


@pytest.mark.parametrize("state", ["running", "failed", "stopped"])
def test_a_run_that_is_not_done(refused: Refused, adapter: Path, tiny_model: Path, state: str) -> None:
    a_run(Path("run"), adapter, tiny_model, state)
    assert f"run: the run there is {state}, not done; finish it with --resume" in refused("run")


def test_a_base_that_is_quantised(refused: Refused, base: Path) -> None:
    change(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "its weights are quantised" in refused("adapter", "--base", "base")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["combine={type: ties, densty: 0.3}"], "combine.densty: unknown key; did you mean 'density'?"),
        (["combine=tiess"], "did you mean 'ties'?"),
        (["combine=svd"], "combine.rank: required"),
        (["combine=slerp"], "'slerp' combines exactly 2 sources, not 1"),
        (["save=adapter"], "'linear' has no low rank"),
        (["save=adapter", "combine=cat", "--dtype", "bf16"], "dtype: is for a whole model"),
        (["save=adapter", "combine=cat", "--push", "org/name"], "push: is for a whole model"),
        (["sources=[adapter, {path: adapter, weigth: 2}]"], "sources[1].weigth: unknown key; did you mean 'weight'?"),
        (["base_weights=quantized"], "base_weights: 'quantized' is for the adapter of one run"),
        (["--max-shard-size", "five"], "'five' is no size; write one like 5GB or 500MB"),
        (["--dtype", "fp8"], "dtype: should be 'keep' or 'fp32' or 'bf16' or 'fp16', got 'fp8'"),
        (["--gguf", "q8"], "gguf: unknown kind 'q8'; did you mean 'q8_0'?"),
        (["--gguf", "q4_k_m"], "gguf: only llama.cpp can write q4_k_m: python convert_hf_to_gguf.py"),
        (["--push", "name"], "push: 'name' is no name of a repository; give ORG/NAME"),
        (["--quantize", "nf5"], "quantize: should be 'nf4' or"),
        (["--base", "./gone"], "base: no such file or folder './gone'"),
    ],
)
def test_settings_that_cannot_be(refused: Refused, words: list[str], said: str) -> None:
    assert said in refused("adapter", *words)


def test_whole_models_that_cannot_be_combined(refused: Refused, base: Path) -> None:
    assert "'ties' combines updates of one base; name it as 'base'" in refused(
        "x", "sources=[base, base]", "combine=ties"
    )
    assert "add up to 2, which scales the model" in refused("x", "sources=[base, base]")
    assert "add up to 3, which scales the model" in refused("x", "sources={path: base, weight: 3}")
    said = refused("x", "sources=[adapter, base]", "save=adapter", "combine=cat")
    assert "'base' is a whole model" in said


def test_exports_without_their_packages(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        assert name in ("bitsandbytes", "torchao")

    monkeypatch.setattr("ftune.merge.quantized.kind.find_spec", find_spec)
    for kind, package, extra in (("nf4", "bitsandbytes", "quantization"), ("fp8", "torchao", "torchao")):
        said = refused("adapter", "--quantize", kind)
        assert f"quantize: '{kind}' needs the {package} package; pip install 'ftune[{extra}]'" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused: Refused) -> None:
    assert "verify.device: there is no GPU here" in refused("adapter", "verify.device=cuda")
