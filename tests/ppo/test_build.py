"""Where reference and value come from: a base, an adapter that training goes on from, copies, NF4."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.models.load import load_model
from ftune.models.quantization.nf4 import Nf4
from ftune.peft.full import Full
from ftune.peft.lora import Lora
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from tests.ppo.models import llama, lora, parts, sequences, stir

BATCH = sequences()


def logprobs(actor_critic: ActorCritic, mode: str = "policy") -> torch.Tensor:
    with torch.no_grad():
        out: Any = actor_critic(mode, *parts(BATCH))
    return out.logprobs_BT if mode == "policy" else out  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that an earlier stage has left."""
    folder = tmp_path_factory.mktemp("sft")
    model = lora(dropout=0.1)
    torch.manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("value", ["trunk", "adapter"])
def test_a_start_adapter_trains_on_and_stays_as_the_reference(value: Any, supervised: Path) -> None:
    from peft import PeftModel

    actor_critic = build(llama(), start_adapter=supervised, value=value)
    assert actor_critic.reference == "adapter"
    start = logprobs(actor_critic)
    alone = build(PeftModel.from_pretrained(llama(), str(supervised)), reference="copy")
    assert torch.equal(start, logprobs(alone))
    assert torch.equal(start, logprobs(actor_critic, "reference"))
    assert not torch.allclose(start, logprobs(build(lora())))
    assert not any(".reference." in name for name in actor_critic.trainable())
    stir(actor_critic)
    assert torch.equal(start, logprobs(actor_critic, "reference"))
    assert not torch.allclose(start, logprobs(actor_critic))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_reference_is_the_start_also_where_the_base_gave_something_up(init: str) -> None:
    actor_critic = build(lora(init=init))
    assert actor_critic.reference == "adapter"
    start = logprobs(actor_critic)
    assert torch.allclose(start, logprobs(build(lora())), atol=1e-4)
    stir(actor_critic)
    assert torch.equal(start, logprobs(actor_critic, "reference"))
    with pytest.raises(ModelError, match="not what the policy starts as"):
        build(lora(init=init), reference="base")


def test_copies_share_no_memory_with_what_trains() -> None:
    actor_critic = build(Full().wrap(llama()), value="copy", reference_dtype=torch.bfloat16)
    copies = (actor_critic.model, actor_critic.reference_copy, actor_critic.value_copy)
    places = [{value.data_ptr() for value in part.parameters()} for part in copies if part is not None]
    assert len(set.union(*places)) == sum(map(len, places))
    assert actor_critic.reference_copy is not None
    assert {value.dtype for value in actor_critic.reference_copy.parameters()} == {torch.bfloat16}


def test_a_copy_of_the_backbone_is_for_whole_models() -> None:
    with pytest.raises(ModelError, match="full fine-tuning"):
        build(lora(), value="copy")


def test_a_broken_start_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        build(llama(), start_adapter=tmp_path)


def test_nf4_bases_serve_all_roles(tmp_path: Path) -> None:
    llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    base = load_model(str(tmp_path), dtype="float32", loader_args=Nf4().loader_args("float32"))
    actor_critic = build(Lora(rank=4).wrap(base), value="adapter")
    start = logprobs(actor_critic)
    assert torch.equal(start, logprobs(actor_critic, "reference"))
    stir(actor_critic)
    actor_critic.checkpoint_activations(True)
    out = actor_critic("policy", *parts(BATCH))
    (out.logprobs_BT.sum() + out.values_BT.sum()).backward()
    assert all(
        value.grad is not None and bool(value.grad.isfinite().all()) for value in actor_critic.trainable_parameters()
    )
    assert sum(bool(value.grad.any()) for value in actor_critic.trainable_parameters() if value.grad is not None) > 40
    assert torch.equal(start, logprobs(actor_critic, "reference"))
