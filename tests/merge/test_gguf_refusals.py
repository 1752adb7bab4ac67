"""What cannot be written as GGUF: one line that says why, and the command of llama.cpp."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ftune.core.errors import ModelError, StorageError
from ftune.merge.gguf.write import write_gguf
from tests.data.conftest import sentencepiece_like
from tests.merge.gguf_models import byte_level, make_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("llama"), shard="1GB")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("gemma3", tmp_path_factory.mktemp("gemma"), shard="1GB", num_hidden_layers=1)


def refusal(folder: Path, file: Path, kind: str = "f16") -> str:
    """The message; nothing of the file is left."""
    with pytest.raises(ModelError) as caught:
        write_gguf(folder, file, kind, lambda done, total: None)
    assert list(file.parent.glob("*.gguf*")) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model folder with other settings in its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def test_quantising_with_k_is_llama_cpps_with_the_commands(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "my model.gguf"
    assert refusal(llama, file, "q4_k_m") == (
        f"gguf: only llama.cpp can write q4_k_m: python convert_hf_to_gguf.py {llama} "
        f"--outfile '{tmp_path}/my model.f16.gguf' --outtype f16 && "
        f"llama-quantize '{tmp_path}/my model.f16.gguf' '{file}' q4_k_m"
    )


def test_an_unknown_kind_is_named(llama: Path, tmp_path: Path) -> None:
    assert refusal(llama, tmp_path / "m.gguf", "q8") == "gguf: unknown kind 'q8'; did you mean 'q8_0'?"


def test_another_architecture_gets_the_command(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "model", architectures=["LlamaForSequenceClassification"])
    assert refusal(folder, tmp_path / "m.gguf", "q8_0") == (
        f"gguf: {folder}: is a LlamaForSequenceClassification (llama), which is not written here; with llama.cpp: "
        f"python convert_hf_to_gguf.py {folder} --outfile {tmp_path}/m.gguf --outtype q8_0"
    )


OF_LLAMA = {
    "activation": ({"hidden_act": "gelu"}, "activation is gelu, not silu"),
    "rope": ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "by dynamic with factor"),
    "yarn": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 16.0}},
        "by yarn with beta_fast, factor",
    ),
    "vocabulary": ({"vocab_size": 300}, "ids up to 3.., and its embedding 300 rows"),
}

OF_GEMMA = {
    "window": ({"layer_types": ["full_attention"]}, "not one layer in 6 sees the whole text"),
    "scale": ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64, and readers take 256"),
    "both ways": ({"use_bidirectional_attention": True}, "looks ahead"),
    "caps": ({"attn_logit_softcapping": 30.0}, "attention logits are capped"),
    "local base": (
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e4},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            }
        },
        "layers with a window is not the default of base 10000",
    ),
}


@pytest.mark.parametrize("name", OF_LLAMA)
def test_settings_that_gguf_cannot_say(name: str, llama: Path, tmp_path: Path) -> None:
    settings, reason = OF_LLAMA[name]
    with pytest.raises(ModelError, match=reason):
        write_gguf(changed(llama, tmp_path / "model", **settings), tmp_path / "m.gguf", "f16", lambda done, total: None)


@pytest.mark.parametrize("name", OF_GEMMA)
def test_settings_that_readers_take_for_granted(name: str, gemma: Path, tmp_path: Path) -> None:
    settings, reason = OF_GEMMA[name]
    assert reason in refusal(changed(gemma, tmp_path / "model", **settings), tmp_path / "m.gguf")


def lowercasing() -> Any:
    made = byte_level()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def cut_at_commas() -> Any:
    return byte_level(",")


def of_words() -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")), eos_token="b")


def cut_at_blanks() -> Any:
    made = sentencepiece_like()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


class Odd(NamedTuple):
    """A tokenizer, and what is odd about it."""

    make: Callable[[], Any]
    reason: str


TOKENIZERS = {
    "lowercasing": Odd(lowercasing, "its tokenizer normalises texts"),
    "commas": Odd(cut_at_commas, "its tokenizer cuts texts in a way that has no name here"),
    "words": Odd(of_words, "its tokenizer is of type WordLevel, not BPE"),
    "merges": Odd(sentencepiece_like, "in fewer ways than scores would allow"),
    "blanks": Odd(cut_at_blanks, "its tokenizer"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_llama_cpp_would_do_otherwise(name: str, llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "model", vocab_size=1000)
    TOKENIZERS[name].make().save_pretrained(folder)
    message = refusal(folder, tmp_path / "m.gguf")
    assert TOKENIZERS[name].reason in message
    assert "convert_hf_to_gguf.py" in message


def with_tensor(folder: Path, target: Path, name: str, tensor: torch.Tensor) -> Path:
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    save_file(load_file(file) | {name: tensor}, file, metadata={"format": "pt"})
    return target


def test_a_tensor_without_a_place_is_named(llama: Path, tmp_path: Path) -> None:
    folder = with_tensor(llama, tmp_path / "model", "model.layers.0.gate.bias", torch.ones(3))
    assert "has a tensor 'model.layers.0.gate.bias'" in refusal(folder, tmp_path / "m.gguf")


def test_a_number_that_f16_cannot_hold_is_no_infinity(llama: Path, tmp_path: Path) -> None:
    folder = with_tensor(llama, tmp_path / "model", "model.layers.0.mlp.up_proj.weight", torch.full((96, 64), 7e4))
    assert refusal(folder, tmp_path / "m.gguf") == (
        "gguf: 'blk.0.ffn_up.weight' has numbers above the largest of f16, 65,504; choose kind bf16"
    )
    write_gguf(folder, tmp_path / "m.gguf", "bf16", lambda done, total: None)


def test_a_full_disk_is_seen_before_anything_is_written(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**20, 2**20, 2**19))
    with pytest.raises(StorageError, match=r"needs 0\.1 GiB, 0\.0 GiB are free; make room"):
        write_gguf(llama, tmp_path / "m.gguf", "f16", lambda done, total: None)
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_file_can_be(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "file").touch()
    for place, reason in (("folder.gguf", "is a folder"), ("file/m.gguf", "File exists")):
        with pytest.raises(StorageError, match=reason):
            write_gguf(llama, tmp_path / place, "f16", lambda done, total: None)
