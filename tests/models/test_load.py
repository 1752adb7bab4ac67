"""How models are loaded: what a device cannot do is said before a weight is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.errors import ModelError
from ftune.models.load import load_model, load_tokenizer
from tests.conftest import Done


def test_flex_attention_is_refused_on_a_cpu(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.attention: 'flex_attention' needs a GPU; .*'sdpa'"):
        load_model(str(tiny_model), dtype="float32", attention="flex_attention")
    assert load_model(str(tiny_model), dtype="float32", attention="sdpa").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("classes", [(), ("bad", "good")])
def test_weights_that_are_not_there_are_not_made_up(tiny_model: Path, tmp_path: Path, classes: tuple[str, ...]) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    assert load_model(str(tmp_path / "model"), dtype="float32", classes=classes)
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["num_hidden_layers"] += 1
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    missing = rf"lacks weights .*: model\.layers\.{config['num_hidden_layers'] - 1}\.\S+ and 8 more; fetch or save"
    with pytest.raises(ModelError, match=missing):
        load_model(str(tmp_path / "model"), dtype="float32", classes=classes)


def test_a_run_with_flex_attention_on_a_cpu_ends_with_advice(
    recipe: Callable[..., Path], tiny_model: Path, ftune: Callable[..., Done]
) -> None:
    done = ftune(
        "sft", recipe(model={"path": str(tiny_model), "attention": "flex_attention"}, backend={"device": "cpu"})
    )
    assert done.code == 2
    assert "'flex_attention' needs a GPU" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)], ids=["nothing", "its settings alone"])
def test_a_folder_without_a_tokenizer_says_which_files_it_lacks(
    tiny_model: Path, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    for file in bare.glob("tokenizer*"):
        if file.name not in kept:
            file.unlink()
    with pytest.raises(ModelError, match=r"'.*bare' holds no tokenizer \(neither tokenizer\.json .*; copy those files"):
        load_tokenizer(str(bare))


def test_a_model_that_transformers_would_give_a_tokenizer_of_one_token_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).encode("a", add_special_tokens=False) == [100]


def test_a_vocabulary_under_another_name_is_tried(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "tokenizer.json").rename(other / "tokenizer.model")
    with pytest.raises(ModelError, match="cannot be loaded: "):
        load_tokenizer(str(other))
