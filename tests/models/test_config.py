"""A model's configuration without its weights: folders, the hub's cache, GGUF headers, wheels."""

import json
from pathlib import Path

import pytest

from ftune.core.errors import ModelError
from ftune.core.paths import cache_dir
from ftune.models.config import read_config
from ftune.models.gguf_header import config_of_gguf
from ftune.models.wheel import WHEELS

COMMIT = "0" * 40


def test_a_folder(tiny_model: Path) -> None:
    assert read_config(str(tiny_model)) == json.loads((tiny_model / "config.json").read_text())


def test_of_a_model_that_sees_the_text_part_counts(tmp_path: Path) -> None:
    inner = {"model_type": "gemma3_text", "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": inner}))
    assert read_config(str(tmp_path)) == inner
    packed = {"quantization_config": {"load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": inner, **packed}))
    assert read_config(str(tmp_path)) == inner | packed


def test_the_cache_of_the_hub_is_read_without_asking_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    folder = tmp_path / "hub" / "models--org--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text('{"model_type": "llama"}')
    assert read_config("org/small") == read_config("org/small", COMMIT) == {"model_type": "llama"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": []}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"^model\.path: .*config\.json"):
        read_config(str(tmp_path))


def test_no_such_model() -> None:
    with pytest.raises(ModelError, match=r"no such file or folder './none'"):
        read_config("./none")


def test_the_header_of_a_gguf_file_says_what_the_converted_model_says(tmp_path: Path) -> None:
    from gguf import GGUFWriter
    from numpy import zeros

    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(40)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(77)
    writer.add_token_list([f"token {number}" for number in range(11)])
    writer.add_token_scores([0.5] * 11)
    writer.add_tensor("token_embd.weight", zeros((11, 16), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 77,
        "vocab_size": 11,
        "tie_word_embeddings": True,
    }
    assert read_config(str(tmp_path / "tiny.gguf")) == config


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGML" + bytes(40), b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 40]
)
def test_what_is_no_gguf_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf is not a GGUF file"):
        config_of_gguf(tmp_path / "broken.gguf")


@pytest.mark.slow  # needs the wheel
@pytest.mark.parametrize("name", WHEELS)
def test_what_is_known_of_a_wheel_is_what_its_file_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTUNE_CACHE")
    wheel = WHEELS[name]
    file = cache_dir() / "wheels" / f"{name}-{wheel.version}" / Path(wheel.member).name
    known = config_of_gguf(file)
    assert known == {key: value for key, value in wheel.config.items() if key in known}
    assert set(wheel.config) - set(known) <= {"head_dim"}


def test_the_hub_is_asked_only_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="is not in the cache; 'ftune plan' fetches it"):
        read_config("org/elsewhere")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):  # by the tests
        read_config("org/elsewhere", ask=True)
