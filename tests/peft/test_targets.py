"""What methods find in models whose names, heads and configurations are unlike those of a Llama."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    MptConfig,
    MptForCausalLM,
)

from ftune.core.errors import ModelError
from ftune.peft.base import Material
from ftune.peft.bitfit import BitFit
from ftune.peft.freeze import Freeze
from ftune.peft.lora import Lora
from ftune.peft.prefix import Prefix
from ftune.peft.prompt import Prompt
from ftune.peft.targets import linear_names
from tests.contract.cases import method

SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_labels": 3,
}
IDS = torch.tensor([[5, 9, 13, 21]])


def distilbert() -> Any:
    """Its head is two layers, `pre_classifier` and `classifier`."""
    config = DistilBertConfig(vocab_size=320, dim=32, hidden_dim=64, n_layers=2, n_heads=4, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("chosen", [Lora(rank=2), BitFit(), Freeze(), Prompt(virtual_tokens=3)], ids=lambda it: it.type)
def test_all_of_a_head_trains_and_none_of_it_is_adapted(chosen: Any) -> None:
    model = distilbert()
    assert not any("classifier" in name for name in linear_names(model))
    wrapped = chosen.wrap(model)
    wrapped(input_ids=IDS, labels=torch.tensor([1])).loss.backward()
    trained = {name for name, value in wrapped.named_parameters() if value.requires_grad and value.grad is not None}
    for layer in ("pre_classifier", "classifier"):
        assert any(f"{layer}.modules_to_save.default.weight" in name or name == f"{layer}.weight" for name in trained)


def test_a_prompt_goes_on_a_model_whose_configuration_has_other_names() -> None:
    model = MptForCausalLM(MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4, max_seq_len=64))
    wrapped = Prompt(virtual_tokens=3).wrap(model)
    assert wrapped(input_ids=IDS).logits.shape == (1, 3 + 4, 320)


@pytest.mark.parametrize("config", [DebertaV2Config(**SMALL), ModernBertConfig(**SMALL, pad_token_id=0)], ids=type)
def test_a_prefix_is_refused_where_no_keys_and_values_are_taken(config: Any) -> None:
    with pytest.raises(ModelError, match=r"takes none; use 'peft: prompt' or 'peft: lora'"):
        Prefix().wrap(AutoModelForSequenceClassification.from_config(config))


def test_eva_says_that_it_cannot_be_computed() -> None:
    model = AutoModelForSequenceClassification.from_config(DebertaV2Config(**SMALL, relative_attention=True))
    rows = torch.randint(3, 300, (8, 24)).tolist()
    with pytest.raises(ModelError, match=r"'eva' cannot be computed on this model from 8 rows .*use another init"):
        Lora(rank=2, init="eva").wrap(model, Material(None, "", rows))


def test_norms_are_found_beside_places_without_one() -> None:
    model = AutoModelForSequenceClassification.from_config(ModernBertConfig(**SMALL, pad_token_id=0))
    wrapped = method("ln_tuning").wrap(model)  # the first layer's `attn_norm` is an identity
    trained = [name for name, value in wrapped.named_parameters() if value.requires_grad and "norm" in name]
    assert len(trained) == 1 + 3 + 1 + 1  # embeddings, two layers of which one has two, the end, the head's
