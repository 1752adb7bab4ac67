"""Selective methods: exactly what is chosen trains, it is said, and the result is a folder in one dtype."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from ftune.core.errors import ModelError
from ftune.peft.freeze import Freeze

IDS = torch.tensor([[5, 9, 13, 21, 34, 55]])
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more))


def training(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}


def all_of(model: Any, *starts: str) -> set[str]:
    return {name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith(starts)}


CHOICES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ("model.layers.2.", "model.layers.3.")),
    ({"last_layers": 1}, ("model.layers.3.",)),
    ({"layers": [0, 2]}, ("model.layers.0.", "model.layers.2.")),
    ({"patterns": ["model.layers.1.mlp.*", "*.norm.weight"]}, ("model.layers.1.mlp.", "model.norm.")),
    ({"patterns": ["*.layers.0.*"], "last_layers": 1}, ("model.layers.0.", "model.layers.3.")),
    ({"embeddings": True}, ("model.layers.2.", "model.layers.3.", "model.embed_tokens.")),
    ({"last_layers": 0, "head": True}, ("lm_head.",)),
]


@pytest.mark.parametrize(("chosen", "starts"), CHOICES)
def test_exactly_the_chosen_parameters_train(chosen: dict[str, Any], starts: tuple[str, ...]) -> None:
    model = Freeze(**chosen).wrap(llama())
    assert training(model) == all_of(model, *starts)


def test_what_trains_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Freeze(last_layers=1, patterns=["model.layers.0.mlp.up_proj.weight", "model.norm.*"]).wrap(llama())
    assert "trains: model.layers.0.mlp.up_proj.*, model.layers.3.*, model.norm.*\n" in capsys.readouterr().err


def test_tied_embeddings_are_said_to_train_with_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    model = Freeze(patterns=["lm_head.*"]).wrap(llama(tie_word_embeddings=True))
    assert training(model) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert "tied: one weight, which trains as both" in capsys.readouterr().err
    Freeze().wrap(llama(tie_word_embeddings=True))
    assert "tied" not in capsys.readouterr().err


def test_other_families_have_their_layers_elsewhere() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0))
    assert training(Freeze(last_layers=1).wrap(gpt2)) == all_of(gpt2, "transformer.h.2.")
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_decoder_layers=2, num_heads=4)
    t5 = T5ForConditionalGeneration(config)
    assert training(Freeze(last_layers=1).wrap(t5)) == all_of(t5, "encoder.block.2.", "decoder.block.1.")
    classifier = LlamaForSequenceClassification(LlamaConfig(**SIZES))
    assert training(Freeze(last_layers=1).wrap(classifier)) == all_of(classifier, "model.layers.3.", "score.")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"patterns": ["model.layers.*.mpl.up_proj.weight"]},
            r"did you mean 'model\.layers\.\*\.mlp\.up_proj\.weight'",
        ),
        ({"patterns": ["mlp.up_proj"]}, r"no parameter matches 'mlp\.up_proj'"),
        ({"layers": [1, 4]}, "peft.layers: 4 is not there; the model has layers 0 to 3"),
        ({"last_layers": 5}, "peft.last_layers: 5 are not there"),
    ],
)
def test_what_is_not_there_is_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Freeze(**chosen).wrap(llama())


def test_settings_that_train_nothing_or_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing to train"):
        Freeze(last_layers=0)
    with pytest.raises(ValueError, match="'last_layers' or 'layers', not both"):
        Freeze(last_layers=1, layers=[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("chosen", [{}, {"embeddings": True, "head": True}])
def test_the_result_is_loaded_with_equal_logits(dtype: torch.dtype, chosen: dict[str, Any], tmp_path: Path) -> None:
    """In training the chosen parameters are fp32 beside frozen ones in `dtype`; the saved folder is all `dtype`."""
    llama().save_pretrained(tmp_path / "base")
    model: Any = Freeze(**chosen).wrap(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        in_training = model.eval()(IDS).logits.detach().float()
    Freeze(**chosen).export(model, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        found = loaded(IDS).logits
        assert torch.equal(found, model(IDS).logits)
    assert found.dtype == dtype
    rounding = 1e-6 if dtype == torch.float32 else 0.02
    assert float((found.float() - in_training).abs().max() / in_training.abs().max()) < rounding
