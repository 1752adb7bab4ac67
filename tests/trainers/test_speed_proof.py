"""What would change a model's loss or gradients is seen before it stays on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from ftune.speed.attention import attention, candidates
from ftune.speed.documents import NAME
from ftune.speed.folded import Group
from ftune.speed.loss import give_loss, lossy_head
from ftune.trainers.speed import at_speed
from ftune.trainers.speed_proof import Proof
from tests.trainers.test_packing_attention import GROUPED, ROWS


def adapted(**lora: Any) -> Any:
    """A model as it is at the beginning of a run: B is zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED))
    config = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    return get_peft_model(model, config)


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def swapped(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Query and key trade places in what their adapters add."""

    def b(self: Group) -> list[torch.Tensor]:
        found: list[torch.Tensor] = plain(self)
        return [found[0].roll(1, 0), *found[1:]]

    return b


def test_adapters_in_wrong_places_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "b", swapped(Group.b))
    model = adapted()
    before = state_of(model)
    with at_speed(model, ROWS, torch.float32) as speed:
        assert speed.folded_lora == 0
        assert "adapters beside their layers: the " in speed.words()
        assert " off" in speed.words() or "it was" in speed.words()
        assert not any("Folded" in type(module).__name__ for module in model.modules())
    for name, value in state_of(model).items():
        assert torch.equal(value, before[name]), name


def test_a_proof_leaves_no_trace() -> None:
    model = adapted(lora_dropout=0.1)
    before, random = state_of(model), torch.get_rng_state()
    with at_speed(model, ROWS, torch.float32) as speed:
        assert speed.folded_lora == 8
    assert torch.equal(torch.get_rng_state(), random)
    assert all(one.grad is None for one in model.parameters())
    assert model.training
    for name, value in state_of(model).items():
        assert torch.equal(value, before[name]), name


def changed(factor: float) -> Any:
    """A hook that scales what a layer gives; with a negative factor it turns gradients around and nothing else."""
    return lambda _, __, out: out * factor if factor > 0 else out.detach() * 2 - out


@pytest.mark.parametrize(("factor", "said"), [(1.1, "the loss becomes"), (-1.0, "the gradient of")])
def test_a_fault_is_told(factor: float, said: str) -> None:
    """A layer that scales what passes changes the loss; one that turns gradients around leaves it as it was."""
    model = adapted()
    candidates(torch.device("cpu"))
    head = lossy_head(model)
    assert not isinstance(head, str)
    give_loss(model, head)
    with attention(model, NAME):
        proof = Proof.of(model, ROWS, torch.float32, 0)
        assert proof.fault(model) == ""
        layer = model.base_model.model.model.layers[0].mlp

        hook = layer.register_forward_hook(changed(factor))
        assert said in proof.fault(model)
        hook.remove()
        assert proof.fault(model) == ""


@pytest.mark.parametrize(("factor", "said"), [(1.01, ""), (3.0, "the loss becomes"), (-1.0, "another one (cosine -")])
def test_fp8_may_be_as_far_off_as_it_rounds(factor: float, said: str) -> None:
    """What a proof of the same numbers does not let pass; the last norm, scaled, scales all logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED))
    candidates(torch.device("cpu"))
    head = lossy_head(model)
    assert not isinstance(head, str)
    give_loss(model, head)
    with attention(model, NAME):
        proof = Proof.of(model, ROWS, torch.float32, 0)

        hook = model.model.norm.register_forward_hook(changed(factor))
        assert proof.fault(model) != ""
        found = proof.fault(model, fp8=True)
        assert said in found
        assert bool(found) == bool(said)
        hook.remove()
