"""Layers' inputs that are away between the passes change no loss and no gradient, and come back one after the other."""

import gc
from typing import Any
from weakref import ref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config
from transformers.modeling_layers import GradientCheckpointingLayer

from ftune.core.errors import ModelError
from ftune.speed import compiled, offload
from ftune.speed.offload import Away, Parked, offloaded_inputs

SIZE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
}
CONFIGS: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen3": Qwen3Config}
TOKENS = 12


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model's inputs are large here; what is smaller stays."""
    monkeypatch.setattr(offload, "LARGE", 4 * SIZE["hidden_size"] * TOKENS)


def model_of(family: str, *, lora: bool) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[family](**SIZE))
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def gradients(model: Any, passes: int = 1) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for number in range(passes):
        ids = torch.arange(TOKENS)[None] * (number + 3) % SIZE["vocab_size"]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_are_the_same_bits(family: str, lora: bool) -> None:
    model = model_of(family, lora=lora)
    plain = gradients(model, passes=2)
    kinds = {type(layer) for layer in compiled.decoder_layers(model)}
    with offloaded_inputs(model) as away:
        found = gradients(model, passes=2)
    assert away.count == 2 * SIZE["num_hidden_layers"]
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert {type(layer) for layer in compiled.decoder_layers(model)} == kinds


def test_what_is_compiled_within_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama", lora=False)
    plain, compile_ = gradients(model), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    with offloaded_inputs(model) as away, compiled.compiled_layers(model):
        found = gradients(model)
    assert away.count == SIZE["num_hidden_layers"]
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_the_next_one_sets_out_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched, made = [], []
    honest, begin = Parked.fetch, Parked.__init__

    def watching(self: Parked) -> torch.Tensor:
        fetched.append(next(number for number, one in enumerate(made) if one() is self))
        return honest(self)

    def counting(self: Parked, *args: Any) -> None:
        begin(self, *args)
        made.append(ref(self))

    monkeypatch.setattr(Parked, "fetch", watching)
    monkeypatch.setattr(Parked, "__init__", counting)
    model = model_of("llama", lora=False)
    with offloaded_inputs(model):
        gradients(model)
    gc.collect()
    assert fetched == [3, 2, 2, 1, 1, 0, 0]  # each when the one behind it is in use, and when its own turn has come
    assert [one() for one in made] == [None] * 4


def test_evaluation_and_what_is_small_stay_where_they_are() -> None:
    model = model_of("llama", lora=False)
    ids = torch.arange(TOKENS - 1)[None]
    with offloaded_inputs(model) as away:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.eval()
        model(input_ids=torch.arange(TOKENS)[None])
    assert away.count == 0
    small = torch.zeros(2)
    assert Away(torch.device("cpu")).pack(small) is small


def test_a_model_that_does_not_say_its_layers_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE))
    for module in model.modules():  # as one whose code says nothing of it
        if isinstance(module, GradientCheckpointingLayer):
            module.__class__ = torch.nn.Module
    with (
        pytest.raises(ModelError, match=r"batch\.activation_offload: the model does not say which layers it repeats"),
        offloaded_inputs(model),
    ):
        pass
