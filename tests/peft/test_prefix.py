"""Prefix tuning and P-tuning v2: what trains, what is saved, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ftune.peft.base import PeftMethod, count_parameters
from ftune.peft.p_tuning_v2 import PTuningV2
from ftune.peft.prefix import Prefix

LAYERS, TOKENS = 3, 7
SHAPES = {"as wide as the model": (4, 8, 32), "grouped queries": (2, 8, 16), "heads wider than the model": (2, 24, 48)}
"""Key-value heads, size of a head, and the width of keys that follows, of a model of hidden size 32 with 4 heads."""


def llama(heads: int, size: int, classes: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=heads,
        head_dim=size,
        num_labels=classes or 2,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config) if classes else LlamaForCausalLM(config)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "method", [Prefix(virtual_tokens=TOKENS, reparameterisation=False), PTuningV2(virtual_tokens=TOKENS)]
)
def test_it_trains_keys_and_values_of_each_layer(method: PeftMethod, shape: str) -> None:
    heads, size, width = SHAPES[shape]
    assert count_parameters(method.wrap(llama(heads, size)))[0] == 2 * LAYERS * TOKENS * width


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hidden", [None, 11])
def test_the_mlp_trains_and_is_not_saved(shape: str, hidden: int | None, tmp_path: Path) -> None:
    heads, size, width = SHAPES[shape]
    method = Prefix(virtual_tokens=TOKENS, hidden_size=hidden)
    model = method.wrap(llama(heads, size))
    made = 2 * LAYERS * width
    inner = hidden or 512
    trained = TOKENS * width + (width * inner + inner) + (inner * made + made)
    assert count_parameters(model)[0] == trained
    method.export(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(value.shape) for name, value in saved.items()} == {"prompt_embeddings": (TOKENS, made)}


def test_p_tuning_v2_trains_and_saves_a_head(tmp_path: Path) -> None:
    method = PTuningV2(virtual_tokens=TOKENS)
    model = method.wrap(llama(2, 8, classes=3))
    assert count_parameters(model)[0] == 2 * LAYERS * TOKENS * 16 + 3 * 32
    method.export(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == 2 * LAYERS * TOKENS * 16 + 3 * 32


def test_a_hidden_size_without_an_mlp_is_refused() -> None:
    with pytest.raises(ValidationError, match="hidden_size: it belongs to the MLP"):
        Prefix(reparameterisation=False, hidden_size=8)


@pytest.mark.parametrize("method", [Prefix(), PTuningV2()])
def test_transformers_still_drops_a_prefix_while_it_checkpoints(method: PeftMethod) -> None:
    """The reason for the refusal: once this fails, the limit can go."""
    torch.manual_seed(0)
    model: Any = method.wrap(llama(2, 8)).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.tensor([[5, 9, 13, 21]])
    with pytest.raises(RuntimeError, match="must match"):  # the mask counts keys that are no longer there
        model(input_ids=ids, labels=ids)


@pytest.mark.parametrize(
    "method", [Prefix(virtual_tokens=TOKENS, reparameterisation=False), PTuningV2(virtual_tokens=TOKENS)]
)
def test_it_starts_as_keys_and_values_of_tokens(method: PeftMethod) -> None:
    """The values of the first layer tell the tokens; put before a row, they make the logits that the prefix makes."""
    torch.manual_seed(0)
    model = llama(2, 8)
    ids = torch.tensor([[5, 9, 13, 21]])
    with torch.no_grad():
        layer = model.model.layers[0]
        values = layer.self_attn.v_proj(layer.input_layernorm(model.model.embed_tokens.weight))
        wrapped: Any = method.wrap(model)
        found = wrapped(input_ids=ids).logits
        prefix = wrapped.prompt_encoder["default"].embedding.weight
        tokens = torch.cdist(prefix[:, 16:32], values).argmin(dim=1)
        wanted = wrapped.get_base_model()(input_ids=torch.cat([tokens[None], ids], dim=1)).logits[:, TOKENS:]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_without_a_cache_it_starts_small() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    model: Any = PTuningV2(virtual_tokens=50).wrap(BertForSequenceClassification(config))
    assert float(model.prompt_encoder["default"].embedding.weight.std()) == pytest.approx(0.02, rel=0.1)
