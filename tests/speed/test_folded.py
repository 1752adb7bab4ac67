"""LoRA folded into its layers' products is LoRA: the same values and gradients, whatever reads one input."""

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from ftune.speed.folded import foldable, folded, watched
from tests.trainers.test_packing_attention import GROUPED

IDS = torch.tensor([[5, 9, 3, 17, 2, 40, 11]])
LORA: dict[str, Any] = {"r": 3, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}


def adapted(config: PretrainedConfig | None = None, **lora: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**GROUPED))
    return get_peft_model(model, LoraConfig(**LORA | lora)).eval()


def groups_of(model: Any) -> list[list[Any]]:
    with watched(model) as found, torch.no_grad():
        model(IDS)
    return found


def run(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients of a number made of them."""
    model.zero_grad()
    logits = model(IDS).logits
    logits.square().mean().backward()
    return logits.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def same(model: Any, groups: list[list[Any]]) -> None:
    logits, slopes = run(model)
    with folded(model, groups):
        found, ours = run(model)
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    assert ours.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert (ours[name] - slope).norm() <= 1e-5 * slope.norm(), name


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"rank_pattern": {"k_proj": 1, "down_proj": 8}, "alpha_pattern": {"v_proj": 1}},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"target_modules": ["gate_proj", "o_proj"], "layers_to_transform": [1]},
        {"init_lora_weights": "pissa"},
    ],
)
def test_values_and_gradients_are_those_of_peft(lora: dict[str, Any]) -> None:
    model = adapted(**lora)
    same(model, groups_of(model))


def test_biases_of_the_base_are_added_once() -> None:
    model = adapted(Qwen2Config(**GROUPED))  # query, key and value have biases, which start at zero
    with torch.no_grad():
        for name, one in model.named_parameters():
            if name.endswith("bias"):
                one.normal_()
    same(model, groups_of(model))


def test_layers_that_read_one_input_are_one_group() -> None:
    model = adapted()
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    assert [[names[id(layer)] for layer in group] for group in groups_of(model)] == [
        ["q_proj", "k_proj", "v_proj"],
        ["o_proj"],
        ["gate_proj", "up_proj"],
        ["down_proj"],
    ] * 2


def test_what_is_learned_is_seen_at_once_and_stays_peft_s() -> None:
    model = adapted()
    groups = groups_of(model)
    kinds = [type(module) for module in model.modules()]
    names = list(model.state_dict())
    with folded(model, groups):
        before = run(model)[0]
        with torch.no_grad():
            for name, one in model.named_parameters():
                if "lora_B" in name:
                    one.add_(0.1)
        after = run(model)[0]
        assert list(model.state_dict()) == names
    assert not torch.allclose(before, after, atol=1e-3)
    assert [type(module) for module in model.modules()] == kinds
    torch.testing.assert_close(run(model)[0], after, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_is_switched_off_is_off() -> None:
    model = adapted()
    groups = groups_of(model)
    with model.disable_adapter():
        base = model(IDS).logits
    with folded(model, groups):
        with model.disable_adapter():
            torch.testing.assert_close(model(IDS).logits, base)
        assert not torch.allclose(model(IDS).logits, base, atol=1e-3)


def test_dropout_is_on_the_adapters_inputs_and_drawn_as_peft_draws_it() -> None:
    model = adapted(lora_dropout=0.5)
    groups = groups_of(model)
    model.train()
    torch.manual_seed(1)
    dropped = model(IDS).logits
    assert not torch.allclose(dropped, model(IDS).logits, atol=1e-3)
    with folded(model, groups):
        torch.manual_seed(1)
        torch.testing.assert_close(model(IDS).logits, dropped, rtol=1e-5, atol=1e-5)


def test_other_layers_are_left_alone() -> None:
    assert not any(foldable(module) for module in adapted(use_dora=True).modules())
    assert not any(foldable(module) for module in adapted(lora_bias=True).modules())
    adalora = AdaLoraConfig(r=3, target_modules="all-linear", total_step=10, task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED))
    assert not any(foldable(module) for module in get_peft_model(base, adalora).modules())
    trained = adapted()
    for one in trained.parameters():
        one.requires_grad_(True)
    assert not any(foldable(module) for module in trained.modules())
