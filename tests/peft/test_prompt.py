"""Prompt tuning: what trains and what it starts as."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftune.core.errors import ModelError
from ftune.peft.base import Material, count_parameters
from ftune.peft.prompt import Prompt


def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def prompt_of(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.prompt_encoder["default"].embedding.weight.detach()
    return found


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.integers(1, 60), init=st.sampled_from(["random", "vocabulary"]))
def test_it_trains_tokens_times_hidden_size(tiny_model: Path, tokens: int, init: Any) -> None:
    model = base(tiny_model)
    whole = count_parameters(model)[1]
    wrapped = Prompt(virtual_tokens=tokens, init=init).wrap(model)
    assert count_parameters(wrapped) == (tokens * 32, whole + tokens * 32)


def test_an_encoder_decoder_has_one_prompt() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    assert count_parameters(Prompt(virtual_tokens=20).wrap(T5ForConditionalGeneration(config)))[0] == 20 * 32


@pytest.mark.parametrize("tokens", [2, 40])
def test_it_starts_as_the_text_cut_or_repeated(tiny_model: Path, tokens: int) -> None:
    words = tokenizer(tiny_model)
    model = base(tiny_model)
    table = model.get_input_embeddings().weight.detach().clone()
    ids = words("the cat sat on a mat", add_special_tokens=False).input_ids
    assert 2 < len(ids) < 40
    method = Prompt(virtual_tokens=tokens, init="text", text="the cat sat on a mat")
    found = prompt_of(method.wrap(model, Material(words)))
    for place, row in enumerate(found):
        assert torch.equal(row, table[ids[place % len(ids)]])


def test_it_starts_as_tokens_of_the_vocabulary_without_the_special_ones(tiny_model: Path) -> None:
    words = tokenizer(tiny_model)
    model = base(tiny_model)
    table = model.get_input_embeddings().weight.detach().clone()
    found = prompt_of(Prompt(virtual_tokens=400).wrap(model, Material(words)))
    places = [(table == row).all(dim=1).nonzero().flatten().tolist() for row in found]
    assert all(places)
    drawn = {place for each in places for place in each}
    assert len(drawn) > 100
    assert not drawn & set(words.all_special_ids)


def test_it_starts_as_what_the_model_reads_where_it_scales_embeddings() -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 32, "head_dim": 8}
    config = Gemma3TextConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
    model = Gemma3ForCausalLM(config)
    read = model.get_input_embeddings()(torch.arange(32)).detach().clone()
    assert not torch.equal(read, model.get_input_embeddings().weight)
    found = prompt_of(Prompt(virtual_tokens=8).wrap(model, Material()))
    assert all(bool((read == row).all(dim=1).any()) for row in found)


def test_it_starts_as_noise_as_wide_as_the_embeddings(tiny_model: Path) -> None:
    model = base(tiny_model)
    spread = float(model.get_input_embeddings().weight.std())
    found = prompt_of(Prompt(virtual_tokens=400, init="random").wrap(model))
    assert float(found.std()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("fields", [{"init": "text"}, {"text": "some words"}, {"init": "random", "text": "some words"}])
def test_text_goes_with_its_init_alone(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="text: 'init: text' starts from it"):
        Prompt.model_validate(fields)


@pytest.mark.parametrize(("text", "has_tokenizer", "why"), [("", True, "no tokens"), ("words", False, "tokenizer")])
def test_a_text_without_tokens_is_refused(tiny_model: Path, text: str, has_tokenizer: bool, why: str) -> None:
    material = Material(tokenizer(tiny_model) if has_tokenizer else None)
    with pytest.raises(ModelError, match=why):
        Prompt(init="text", text=text).wrap(base(tiny_model), material)
