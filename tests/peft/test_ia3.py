"""(IA)3: which layers it finds in the families of transformers, how many vectors that makes, where it is refused."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from ftune.core.errors import ModelError
from ftune.peft.base import count_parameters
from ftune.peft.ia3 import Ia3

LAYERS, HIDDEN, INNER, KV = 3, 32, 48, 16
IDS = torch.tensor([[5, 9, 13, 21]])
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, GemmaConfig])
def test_counts_match_the_formula(config: Any) -> None:
    """A vector for keys, one for values, one for the inner activation: layers x (2 x kv width + ff width)."""
    model = Ia3().wrap(AutoModelForCausalLM.from_config(config(**SIZES)))
    assert count_parameters(model)[0] == LAYERS * (2 * KV + INNER)


def test_a_t5_is_scaled_in_both_attentions_and_the_feed_forward() -> None:
    """The encoder has one attention a layer, the decoder two."""
    config = T5Config(vocab_size=64, d_model=HIDDEN, d_kv=8, d_ff=INNER, num_layers=LAYERS, num_heads=4)
    model = Ia3().wrap(T5ForConditionalGeneration(config))
    assert count_parameters(model)[0] == LAYERS * (3 * 2 * 32 + 2 * INNER)


def test_a_bert_is_not_scaled_at_the_output_of_its_attention() -> None:
    sizes = {name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    classifier = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=4, num_labels=2))
    head = HIDDEN * 2 + 2
    assert count_parameters(Ia3().wrap(classifier))[0] == LAYERS * (2 * HIDDEN + INNER) + head


def test_the_feed_forward_is_scaled_at_its_input() -> None:
    """An output's scaling comes after the weight: l * (W x); an input's before it: W (l * x)."""
    model: Any = Ia3().wrap(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)))
    layer = model.base_model.model.model.layers[0]
    for module, at_input in ((layer.self_attn.k_proj, False), (layer.mlp.down_proj, True)):
        scale = module.ia3_l["default"]
        torch.nn.init.uniform_(scale, 0.5, 2.0)
        inputs, weight = torch.randn(2, module.in_features), module.base_layer.weight
        wanted = (inputs * scale.flatten()) @ weight.T if at_input else (inputs @ weight.T) * scale.flatten()
        assert torch.allclose(module(inputs), wanted, atol=1e-6)


FUSED = [
    (GPT2Config(n_embd=HIDDEN, n_layer=2, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0), "c_attn"),
    (GPTNeoXConfig(**{name: value for name, value in SIZES.items() if name != "head_dim"}), "query_key_value"),
    (Phi3Config(**SIZES), "qkv_proj"),
]


@pytest.mark.parametrize(("config", "layer"), FUSED)
def test_fused_layers_are_refused_with_the_way_out(config: Any, layer: str) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=f"'{layer}' computes queries, keys and values in one.*'peft: lora'") as said:
        Ia3().wrap(model)
    with pytest.raises(ModelError, match="fused layers is refused"):
        Ia3(target_modules=[layer]).wrap(model)
    way_out = str(said.value).rpartition("target_modules: [")[2].partition("]")[0]
    alone: Any = Ia3(target_modules=[way_out]).wrap(model)
    inner = {"c_attn": 4 * HIDDEN}.get(layer, INNER)
    assert count_parameters(alone)[0] == config.num_hidden_layers * inner
    torch.nn.init.uniform_(next(p for p in alone.parameters() if p.requires_grad), 0.5, 2.0)
    wanted = alone.eval()(IDS).logits
    assert torch.allclose(alone.merge_and_unload()(IDS).logits, wanted, atol=1e-5)


def test_a_feed_forward_layer_must_be_a_target() -> None:
    with pytest.raises(ValueError, match="'down_proj' is not in target_modules; add it there too"):
        Ia3(target_modules=["k_proj"], feedforward_modules=["down_proj"])


def test_unusual_names_are_asked_for() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.mlp.last = layer.mlp.down_proj
        del layer.mlp.down_proj
    with pytest.raises(ModelError, match=r"name them in 'target_modules'.*known: .*last"):
        Ia3().wrap(model)
