"""How models are loaded: what a device cannot do is said before a weight is read."""

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


def test_a_run_with_flex_attention_on_a_cpu_ends_with_advice(
    recipe: Callable[..., Path], tiny_model: Path, ftune: Callable[..., Done]
) -> None:
    done = ftune(
        "sft", recipe(model={"path": str(tiny_model), "attention": "flex_attention"}, backend={"device": "cpu"})
    )
    assert done.code == 2
    assert "'flex_attention' needs a GPU" in done.err
    assert "Traceback" not in done.err
