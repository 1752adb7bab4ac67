"""What people get wrong when they merge: one line that says where, what and what to do; nothing is half written."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
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


def config_of(tiny_model: Path, **keys: object) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig.from_pretrained(tiny_model, **keys)


def test_a_base_of_another_size(refused: Refused, tiny_model: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config_of(tiny_model, hidden_size=48)).save_pretrained("wide")
    assert "wide: holds no tokenizer that can be loaded" in refused("adapter", "--base", "wide")
    said = refused("adapter", "--base", "wide", "--no-verify")
    assert "trained on another base: 4 tensors are of other shapes: 'model.layers.0.self_attn.q_proj.lora_A'" in said
    assert "is [4, 32], not [4, 48]" in said
    assert said.count("lora_") == 3
    assert "--base" in said
    said = refused(tiny_model, 'sources=["wide", "adapter"]', f"base={tiny_model}")
    assert "'model.embed_tokens.weight' is (301, 48), not (301, 32)" in said
    assert "and 17 more" in said


def test_a_base_of_fewer_layers(refused: Refused, tiny_model: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config_of(tiny_model, num_hidden_layers=1)).save_pretrained("short")
    said = refused("adapter", "--base", "short", "--no-verify")
    assert "trained on another base: this one has no place for" in said
    assert "'base_model.model.model.layers.1.mlp.up_proj.lora_A.weight'" in said
    assert "and 1 more" in said
    half = [{"path": path, "weight": 0.5} for path in ("short", str(tiny_model))]
    for sources in (half, half[::-1]):
        said = refused("short", f"sources={json.dumps(sources)}", "--no-verify")
        assert "'model.layers.1." in said
        assert "and 6 more" in said


def test_a_base_of_other_names(refused: Refused) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=301, n_positions=64)).save_pretrained("gpt2")
    said = refused("adapter", "--base", "gpt2")
    assert "trained on another base: this one has no layers called 'q_proj', 'up_proj'" in said


def test_methods_that_cannot_be_merged(refused: Refused, adapter: Path, tiny_model: Path) -> None:
    a_run(Path("prompt"), adapter, tiny_model, peft={"type": "prompt"})
    said = refused("prompt")
    assert "prompt: cannot be merged: virtual tokens are inputs, not weights" in said
    a_run(Path("bottleneck"), adapter, tiny_model, peft={"type": "adapter"})
    assert "not linear" in refused("bottleneck/adapter")


def test_foreign_adapters_that_cannot_be_merged(refused: Refused, tiny_model: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ftune.peft.adapter import Adapter

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained("prompt")
    Adapter().wrap(AutoModelForCausalLM.from_pretrained(tiny_model)).save_pretrained("bottleneck")
    said = refused("prompt")
    assert said.startswith("prompt: virtual tokens are no weights")
    assert "peft loads it on its base" in said
    said = refused("bottleneck")
    assert said.startswith("bottleneck: cannot be merged: ")
    assert "not linear" in said


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


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base_model_name_or_path": None}, "does not say what it was trained on; name it with --base MODEL"),
        ({"base_model_name_or_path": "./gone"}, "its base (--base names another): no such file or folder './gone'"),
        ({"base_model_name_or_path": "nobody/gone"}, "its base (--base names another): 'nobody/gone' is not in the"),
        ({"peft_type": None}, "does not say what kind of adapter it is"),
        ({"peft_type": "NOPE"}, "is a 'NOPE' adapter, which peft "),
        ({"r": "x"}, "cannot be put on the base"),
        ({"r": 8}, "are of other shapes"),
    ],
)
def test_settings_of_an_adapter(refused: Refused, adapter: Path, keys: dict[str, object], said: str) -> None:
    change(adapter / "adapter_config.json", **keys)
    found = refused("adapter")
    assert found.startswith("adapter: ")
    assert said in found


def test_an_adapter_that_is_not_whole(refused: Refused, adapter: Path) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    whole = (adapter / ADAPTER).read_bytes()
    edit(adapter / ADAPTER, lambda tensors: tensors.pop(name))
    assert f"{ADAPTER}: lacks '{name}'" in refused("adapter")
    (adapter / ADAPTER).write_bytes(whole)
    edit(adapter / ADAPTER, lambda tensors: tensors[name][0].fill_(torch.nan))
    assert f"{ADAPTER}: '{name}' holds values that are not finite" in refused("adapter", "--no-verify")
    (adapter / ADAPTER).unlink()
    assert f"holds no {ADAPTER}" in refused("adapter")


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
    ("output", "said"),
    [
        ("adapter/merged", "is inside of adapter, which is read"),
        ("adapter", "is adapter, which is read"),
        ("base/merged", "is inside of base, which is read"),
        (".", ". holds base, which is read"),
        ("file", "file is a file; give a folder"),
        ("file/merged", "file is a file; give a folder"),
        ("full", "full is not empty and holds no merged model"),
        (None, "say where the model goes with --output FOLDER"),
    ],
)
def test_outputs(refused: Refused, base: Path, tmp_path: Path, output: str | None, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    assert said in refused("adapter", "--base", "base", output=output)
    assert said in refused("adapter", "--base", "base", "--overwrite", output=output)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; half of what the model needs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=64k", "none", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*words: str) -> None:
    mounted = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")


def test_a_disk_that_is_too_small_or_may_not_be_written(refused: Refused, disk: Path) -> None:
    said = refused("adapter", output="disk/merged", code=74)
    assert "needs 0.1 MiB" in said
    assert "are free" in said
    _mount("-o", "remount,ro", str(disk))
    assert "disk may not be written" in refused("adapter", output="disk/new/merged")
    assert list(disk.iterdir()) == []


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


def test_an_empty_folder_or_a_link_to_one_is_an_output(ftune: Run, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/large").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/large")
    for _ in range(2):
        assert ftune("merge", "adapter", "--output", "link", "--no-verify", "--overwrite").code == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk/large/model.safetensors").is_file()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["large"]


def test_names_in_any_letters(ftune: Run, adapter: Path) -> None:
    adapter.rename("mise à jour 🙂")
    done = ftune("merge", "mise à jour 🙂", "--output", "новая 🙂/модель", "--no-verify")
    assert done.code == 0, done.err
    assert Path("новая 🙂/модель/model.safetensors").is_file()


def test_exports_whose_place_is_taken(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out/merged-int8").mkdir(parents=True)
    (tmp_path / "out/merged-int8/note.txt").write_text("mine")
    assert "out/merged-int8 is not empty" in refused("adapter", "--quantize", "int8")
