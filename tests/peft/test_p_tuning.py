"""P-tuning: the encoders train, their output is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ftune.peft.base import count_parameters
from ftune.peft.p_tuning import PTuning

TOKENS, WIDTH = 7, 32


def mlp_size(hidden: int) -> int:
    return (WIDTH * hidden + hidden) + (hidden * hidden + hidden) + (hidden * WIDTH + WIDTH)


def lstm_size(hidden: int, layers: int) -> int:
    """Four gates, each with weights for input and state and two biases, in two directions; then the MLP on both."""
    total = 0
    for layer in range(layers):
        inputs = WIDTH if layer == 0 else 2 * hidden
        total += 2 * 4 * (inputs * hidden + hidden * hidden + 2 * hidden)
    both = 2 * hidden
    return total + (both * both + both) + (both * WIDTH + WIDTH)


def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, lstm_size(32, 2)),
        ({"hidden_size": 10, "layers": 1}, lstm_size(10, 1)),
        ({"hidden_size": 10, "layers": 3}, lstm_size(10, 3)),
        ({"encoder": "mlp"}, mlp_size(32)),
        ({"encoder": "mlp", "hidden_size": 10}, mlp_size(10)),
    ],
)
def test_the_encoder_trains_and_is_not_saved(
    tiny_model: Path, tmp_path: Path, fields: dict[str, Any], size: int
) -> None:
    method = PTuning.model_validate({"virtual_tokens": TOKENS, **fields})
    model = method.wrap(base(tiny_model))
    assert count_parameters(model)[0] == TOKENS * WIDTH + size
    method.export(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(value.shape) for name, value in saved.items()} == {"prompt_embeddings": (TOKENS, WIDTH)}


def test_what_is_saved_has_no_dropout_in_it(tiny_model: Path, tmp_path: Path) -> None:
    method = PTuning(virtual_tokens=TOKENS, dropout=0.9)
    model: Any = method.wrap(base(tiny_model)).eval()
    wanted = model.get_prompt(1)[0].detach()
    method.export(model.train(), tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.allclose(saved, wanted, atol=1e-6)


@pytest.mark.parametrize("fields", [{"encoder": "mlp", "layers": 2}, {"encoder": "mlp", "dropout": 0.1}])
def test_an_mlp_has_no_layers_and_no_dropout(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="'mlp' has neither 'layers' nor 'dropout'"):
        PTuning.model_validate(fields)


def test_one_layer_has_nothing_to_drop_between() -> None:
    with pytest.raises(ValidationError, match="it lies between the LSTM's layers"):
        PTuning(layers=1, dropout=0.1)
