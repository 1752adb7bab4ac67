"""How models are loaded: what a device cannot do is said before a weight is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.errors import ModelError
from ftune.models.load import load_model
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
