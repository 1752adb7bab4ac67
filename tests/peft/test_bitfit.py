"""BitFit: which biases train and how many, that an offset is a bias, and merging with and without a bias there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from ftune.core.errors import ModelError
from ftune.peft.base import count_parameters
from ftune.peft.bitfit import BitFit

LAYERS, HIDDEN, INNER, KV = 3, 32, 48, 16
IDS = torch.tensor([[5, 9, 13, 21, 34]])
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
}
EVERY_LINEAR = LAYERS * (2 * HIDDEN + 2 * KV + 2 * INNER + HIDDEN)
"""q, o; k, v; gate, up; down."""


def built(config: type, **more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SIZES, **more))


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=HIDDEN, n_layer=LAYERS, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def trained(model: Any) -> Any:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def test_counts_match_the_formula() -> None:
    """GPT-2: two norms, fused qkv, o, up, down in each layer, and a last norm. Qwen2: q, k, v. BERT: and its head."""
    layer = 2 * HIDDEN + 3 * HIDDEN + HIDDEN + 4 * HIDDEN + HIDDEN
    assert count_parameters(BitFit().wrap(gpt2()))[0] == LAYERS * layer + HIDDEN
    assert count_parameters(BitFit().wrap(built(Qwen2Config)))[0] == LAYERS * (HIDDEN + 2 * KV)
    sizes = {name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    bert = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=4, num_labels=2))
    layer, beside = 4 * HIDDEN + INNER + HIDDEN + 2 * HIDDEN, HIDDEN + HIDDEN  # embeddings' norm, pooler
    assert count_parameters(BitFit().wrap(bert))[0] == LAYERS * layer + beside + (HIDDEN * 2 + 2)


def test_added_biases_match_the_formula() -> None:
    assert count_parameters(BitFit(add=True).wrap(built(LlamaConfig)))[0] == EVERY_LINEAR
    assert count_parameters(BitFit(add=True).wrap(built(Qwen2Config)))[0] == EVERY_LINEAR
    chosen = BitFit(add=True, target_modules=["q_proj", "layers.0.mlp.up_proj"])
    assert count_parameters(chosen.wrap(built(LlamaConfig)))[0] == LAYERS * HIDDEN + INNER
    assert count_parameters(BitFit(target_modules=["ln_f"]).wrap(gpt2()))[0] == HIDDEN


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_a_model_without_biases_is_refused_with_the_way_out(config: type) -> None:
    with pytest.raises(ModelError, match=r"has no biases to train; 'add: true' gives"):
        BitFit().wrap(built(config))
    with pytest.raises(ModelError, match=r"no module 'o_proj' with a bias; 'add: true' gives 'o_proj' one"):
        BitFit(target_modules=["o_proj"]).wrap(built(Qwen2Config))


def test_an_offset_trains_as_the_bias_itself() -> None:
    """Three steps of AdamW on the biases of the model give the logits of three steps on the offsets."""
    plain = gpt2().eval()
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.endswith(".bias"))
    offsets = BitFit().wrap(gpt2()).eval()
    before = logits(offsets)
    assert torch.allclose(logits(trained(offsets)), logits(trained(plain)), atol=1e-5)
    assert not torch.allclose(logits(offsets), before, atol=1e-2)


def test_only_offsets_are_saved(tmp_path: Path) -> None:
    model = BitFit(add=True).wrap(built(LlamaConfig))
    BitFit(add=True).export(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == EVERY_LINEAR
    assert all(name.endswith(".bitfit_bias") for name in saved)


MERGED: list[tuple[type, dict[str, Any], dict[str, bool]]] = [
    (LlamaConfig, {}, {"attention_bias": True, "mlp_bias": True}),
    (LlamaConfig, {"target_modules": ["q_proj"]}, {"attention_bias": True, "mlp_bias": False}),
    (
        LlamaConfig,
        {"target_modules": ["up_proj", "layers.1.mlp.down_proj"]},
        {"attention_bias": False, "mlp_bias": True},
    ),
    (Qwen3Config, {"target_modules": ["v_proj"]}, {"attention_bias": True}),
    (Qwen2Config, {"add": False}, {}),
]


@pytest.mark.parametrize(("config", "settings", "switches"), MERGED)
def test_a_merged_model_is_loaded_with_its_biases(
    config: type, settings: dict[str, Any], switches: dict[str, bool], tmp_path: Path
) -> None:
    """The config says that there are biases; layers beside the adapted ones that a switch covers get zeros."""
    model = trained(BitFit(**{"add": True, **settings}).wrap(built(config)))
    wanted = logits(model)
    merged = model.merge_and_unload()
    assert torch.allclose(logits(merged), wanted, atol=1e-6)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(merged))
    assert {name: getattr(loaded.config, name) for name in switches} == switches


def test_a_merge_that_could_not_be_loaded_is_refused() -> None:
    model = trained(BitFit(add=True).wrap(built(MistralConfig)))
    wanted = logits(model)
    with pytest.raises(ModelError, match=r"'MistralForCausalLM' cannot hold a bias on .*; keep the adapter"):
        model.merge_and_unload()
    assert torch.equal(logits(model), wanted)


def test_a_merge_in_place_is_taken_back() -> None:
    base = logits(built(LlamaConfig))
    model = trained(BitFit(add=True).wrap(built(LlamaConfig)))
    wanted = logits(model)
    model.merge_adapter()
    assert torch.allclose(logits(model), wanted, atol=1e-6)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), wanted)
    assert torch.equal(logits(model.unload()), base)


def test_the_bias_of_the_output_head_stays(tmp_path: Path) -> None:
    """Phi has one, and trainers that compute the loss by the head's weight and bias would go past an offset."""
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0
    )
    model = BitFit().wrap(PhiForCausalLM(config))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert any("q_proj" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    BitFit().export(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved
    assert all(".bitfit_bias" in name for name in saved)
