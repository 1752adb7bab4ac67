"""Which adapter is at work: other outputs, the same trainable parameters, gradients of the right adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.peft.adapter import Adapter
from ftune.peft.ia3 import Ia3
from ftune.peft.prompt import Prompt
from ftune.ppo.adapters import adapter_scope, add_copy, checkpoint_context
from ftune.ppo.head import hidden_states
from tests.ppo.models import llama, lora

IDS = torch.arange(3, 13)[None]

WRAPPED = {
    "lora": lambda: lora(),
    "dora": lambda: lora(dora=True),
    "with_head": lambda: lora(modules_to_save=["lm_head"]),
    "ia3": lambda: Ia3().wrap(llama()),
    "adapter": lambda: Adapter(size=4).wrap(llama()),
}


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def moved(model: Any) -> Any:
    for value in trained(model).values():
        value.add_(0.3 * torch.randn(value.shape))
    return model.eval()


@pytest.fixture(params=WRAPPED)
def model(request: pytest.FixtureRequest) -> Any:
    """A model whose adapter does something."""
    return moved(WRAPPED[request.param]())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_without_an_adapter_it_is_the_base_bit_for_bit(model: Any) -> None:
    before = logits(model)
    with adapter_scope(model, None):
        assert torch.equal(logits(model), logits(llama().eval()))
    assert torch.equal(logits(model), before)
    assert not torch.equal(before, logits(llama().eval()))


def test_a_scope_computes_what_peft_computes_and_leaves_no_trace(model: Any) -> None:
    add_copy(model, "value", trainable=True)
    start = logits(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".value" in name:
                value.mul_(1.5)
    names = list(trained(model))
    with adapter_scope(model, "value"):
        inside = logits(model)
    assert torch.equal(logits(model), start)
    assert list(trained(model)) == names
    model.set_adapter("value")
    assert torch.equal(inside, logits(model))
    assert not torch.equal(inside, start)


def test_the_scope_ends_when_its_body_raises(model: Any) -> None:
    before = logits(model)
    with pytest.raises(ZeroDivisionError), adapter_scope(model, None):
        raise ZeroDivisionError
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_copy_computes_the_same_and_trains_only_if_asked(model: Any, trainable: bool) -> None:
    names, before, random = set(trained(model)), logits(model), torch.get_rng_state()
    add_copy(model, "twin", trainable=trainable)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(logits(model), before)
    with adapter_scope(model, "twin"):
        assert torch.equal(logits(model), before)
    more = set(trained(model)) - names
    assert names <= set(trained(model))
    assert len(more) == (len(names) if trainable else 0)


def test_a_copy_of_a_start_that_the_base_gave_up_takes_nothing_more_from_it() -> None:
    model = lora(init="pissa").eval()
    before = logits(model)
    add_copy(model, "twin", trainable=False)
    assert torch.equal(logits(model), before)
    with adapter_scope(model, "twin"):
        assert torch.equal(logits(model), before)


def test_a_merged_adapter_is_refused() -> None:
    model = moved(lora())
    model.merge_adapter()
    with pytest.raises(ModelError, match="merged"), adapter_scope(model, None):
        pass


def test_virtual_tokens_are_refused() -> None:
    model = Prompt(virtual_tokens=4, init="random").wrap(llama())
    with pytest.raises(ModelError, match="memory: separate"), adapter_scope(model, None):
        pass


def test_an_adapter_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="no adapter 'value'"), adapter_scope(lora(), "value"):
        pass


@pytest.mark.parametrize("right", [True, False])
def test_checkpointed_activations_are_computed_again_under_the_adapter_of_the_forward_pass(right: bool) -> None:
    """With peft alone (`right` False) the gradients are those of another adapter, and nothing fails."""
    from torch.utils.checkpoint import checkpoint

    model = lora()
    add_copy(model, "value", trainable=True)
    moved(model)  # both, each in its own way

    def grads(**options: Any) -> dict[str, torch.Tensor]:
        for layer in model.get_base_model().model.layers:
            layer.gradient_checkpointing = layer.training = bool(options)
            layer._gradient_checkpointing_func = lambda *given: checkpoint(*given, use_reentrant=False, **options)
        with adapter_scope(model, "value"):
            hidden = hidden_states(model, IDS)
        hidden.square().sum().backward()
        found = {name: value.grad for name, value in trained(model).items() if value.grad is not None}
        model.zero_grad(set_to_none=True)
        return found

    plain = grads()
    again = grads(**({"context_fn": checkpoint_context(model)} if right else {"preserve_rng_state": False}))
    assert plain
    assert all(".value." in name for name in plain)
    same = again.keys() == plain.keys() and all(torch.allclose(again[name], plain[name], atol=1e-6) for name in plain)
    assert same == right


def test_a_saved_adapter_still_loads_with_peft(tmp_path: Path) -> None:
    """A second adapter in memory changes nothing about what is written of the first."""
    from peft import PeftModel

    model = moved(lora())
    before = logits(model)
    add_copy(model, "twin", trainable=False)
    model.save_pretrained(str(tmp_path), selected_adapters=["default"])
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(tmp_path)).eval()), before)
