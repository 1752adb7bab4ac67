"""Shapes against the models that transformers builds: every module, name and number of parameters."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from ftune.core.errors import ModelError
from ftune.plan.by_hand import shape_by_hand
from ftune.plan.families import FAMILIES, shape_of_config
from ftune.plan.shape import ModelShape

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "vocab_size": 160,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 64}
OPT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 112, "vocab_size": 160}

CONFIGS: list[dict[str, Any]] = [
    *({"model_type": family, **SIZES} for family in FAMILIES if family not in ("bloom", "gpt2", "opt")),
    {"model_type": "llama", **SIZES, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"model_type": "mistral", **SIZES, "head_dim": 16},
    {"model_type": "qwen3", **SIZES, "head_dim": 32, "tie_word_embeddings": True},
    {"model_type": "gpt_neox", **SIZES, "attention_bias": False, "tie_word_embeddings": True},
    {"model_type": "bloom", "hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 160},
    {"model_type": "gpt2", **GPT2},
    {"model_type": "gpt2", **GPT2, "n_inner": 80, "tie_word_embeddings": False},
    {"model_type": "opt", **OPT, "max_position_embeddings": 64},
    {"model_type": "opt", **OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "enable_bias": False},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_a_shape_is_what_transformers_builds(config: dict[str, Any]) -> None:
    given = dict(config)
    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[given.pop("model_type")](**given))
    shape = shape_of_config(made.config.to_dict())
    assert shape.parameters == sum(value.numel() for value in made.parameters())
    assert shape == shape_of_config({**config, "tie_word_embeddings": made.config.tie_word_embeddings})
    modules = dict(made.named_modules())
    found = {name: sizes for name, module in modules.items() if (sizes := linear_sizes(module)) is not None}
    expected = {
        f"{shape.layer_path}.{index}.{linear.name}": (linear.inputs, linear.outputs, linear.bias)
        for index in range(shape.layers)
        for linear in shape.layer_linears
    }
    outer = {linear.name: (linear.inputs, linear.outputs, linear.bias) for linear in (*shape.outer_linears, shape.head)}
    assert found == expected | outer
    norms = [f"{shape.layer_path}.0.{norm.name}" for norm in shape.layer_norms]
    norms += [norm.name for norm in shape.last_norms]
    assert all("norm" in type(modules[name]).__name__.lower() for name in norms)
    assert {table.name for table in shape.embeddings} <= modules.keys()


def linear_sizes(module: Any) -> tuple[int, int, bool] | None:
    if isinstance(module, Conv1D):
        return module.nx, module.nf, True
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features, module.bias is not None
    return None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_size": None}, "needs hidden_size"),
        ({"intermediate_size": "wide"}, "intermediate_size should be a whole number above 0, found 'wide'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers should be a whole number above 0, found 0"),
        ({"num_attention_heads": True}, "found True"),
    ],
)
def test_what_is_wrong_with_a_config_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=r"my/config\.json") as caught:
        shape_of_config({"model_type": "llama", **SIZES, **change}, "my/config.json")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("quantization", "kind", "double"),
    [
        (None, "none", False),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4", True),
        ({"load_in_8bit": True, "load_in_4bit": False}, "int8", False),
        ({"quant_method": "gptq", "bits": 4}, "gptq", False),
    ],
)
def test_weights_that_are_quantised_already_are_told(quantization: object, kind: str, double: bool) -> None:
    shape = shape_of_config({"model_type": "llama", **SIZES, "quantization_config": quantization})
    assert (shape.stored_as, shape.stored_double) == (kind, double)


@pytest.mark.parametrize(("parameters", "layers"), [(70e9, 80), (7e9, 32), (1e9, None), (175e9, 96), (135e6, None)])
def test_a_model_by_hand_has_the_parameters_that_were_asked_for(parameters: float, layers: int | None) -> None:
    shape = shape_by_hand(parameters=int(parameters), layers=layers)
    assert shape.parameters == pytest.approx(parameters, rel=0.01)
    assert layers in (None, shape.layers)
    assert shape.hidden % shape.heads == 0


def test_numbers_by_hand_are_taken() -> None:
    shape = shape_by_hand(parameters=8_000_000_000, layers=32, hidden=4096, heads=32, kv_heads=8, vocab=128_256)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.vocab) == (32, 4096, 32, 8, 128_256)
    assert shape.ffn == pytest.approx(14_336, rel=0.01)


@pytest.mark.parametrize(
    "given",
    [
        {"parameters": 0},
        {"parameters": 1000},
        {"parameters": 7_000_000_000, "hidden": 4096, "heads": 31},
        {"parameters": 7_000_000_000, "hidden": 4096, "heads": 32, "kv_heads": 5},
        {"parameters": 7_000_000_000, "layers": 0},
        {"parameters": 7_000_000_000, "layers": 200, "hidden": 4096},
        {"parameters": 7_000_000_000, "hidden": -1},
    ],
)
def test_a_model_that_cannot_be_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="--"):
        shape_by_hand(**given)


def test_widths_of_queries_and_keys() -> None:
    shape: ModelShape = shape_of_config({"model_type": "qwen3", **SIZES, "head_dim": 32})
    assert (shape.query_width, shape.kv_width) == (128, 64)
