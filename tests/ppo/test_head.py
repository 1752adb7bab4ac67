"""Output heads of many kinds: the short way from hidden states where it is right, the model's own logits elsewhere."""

from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.peft.lora import Lora
from ftune.peft.prefix import Prefix
from ftune.peft.prompt import Prompt
from ftune.ppo.actor_critic import ActorCritic, check_head
from ftune.ppo.build import build
from ftune.ppo.head import output_head_of
from tests.ppo.models import VOCABULARY, llama, lora, parts, sequences, stir

BATCH = sequences()
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def other(family: str, **settings: Any) -> Any:
    """A tiny model of a family whose logits are not simply W h."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


def expected(actor_critic: ActorCritic) -> torch.Tensor:
    """Log-probabilities of row 3 from the model's own logits."""
    ids, start, end = (part[3] for part in parts(BATCH))
    with torch.no_grad():
        logits = actor_critic.model(input_ids=ids[None, :end]).logits[0, -end:]  # behind virtual tokens
    log = logits[start - 1 : end - 1].log_softmax(-1)
    return log.gather(1, ids[start:end, None]).squeeze(1)


def found(actor_critic: ActorCritic) -> torch.Tensor:
    out: torch.Tensor = actor_critic("policy", *parts(BATCH)).logprobs_BT[3, : int(BATCH.lengths_B[3])]
    return out


FAMILIES = {
    "gemma2": lambda: other("Gemma2", final_logit_softcapping=3.0, head_dim=8),
    "cohere": lambda: other("Cohere", logit_scale=0.3, pad_token_id=0),
    "granite": lambda: other("Granite", logits_scaling=4.0),
    "gpt2": lambda: other("GPT2", n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_and_capped_logits_take_the_short_way(family: str) -> None:
    actor_critic = build(Lora(rank=4).wrap(FAMILIES[family]()))
    stir(actor_critic)
    assert check_head(actor_critic, BATCH.ids_BS[3]) is None
    assert actor_critic.head is not None
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)


def test_a_head_with_a_bias_takes_the_short_way() -> None:
    model = llama()
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-2, 2, VOCABULARY))
    actor_critic = build(Lora(rank=4).wrap(model))
    assert check_head(actor_critic, BATCH.ids_BS[3]) is None
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)


def test_a_head_that_does_something_of_its_own_is_noticed() -> None:
    model = llama()
    plain = type(model).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, *args, **kwargs)
        out.logits = out.logits * 1.1
        return out

    model.__class__ = type("Own", (type(model),), {"forward": forward})
    actor_critic = build(Lora(rank=4).wrap(model))
    assert not torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-3)
    assert "differ" in str(check_head(actor_critic, BATCH.ids_BS[3]))
    assert actor_critic.head is None
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)
    start = actor_critic("reference", *parts(BATCH))
    stir(actor_critic)
    assert torch.equal(actor_critic("reference", *parts(BATCH)), start)


def test_a_head_that_trains_with_the_adapter_is_another_one_in_the_reference() -> None:
    actor_critic = build(lora(modules_to_save=["lm_head"]))
    start = actor_critic("reference", *parts(BATCH))
    assert torch.equal(found(actor_critic), start[3, : int(BATCH.lengths_B[3])])
    stir(actor_critic)
    assert check_head(actor_critic, BATCH.ids_BS[3]) is None
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)
    assert torch.equal(actor_critic("reference", *parts(BATCH)), start)
    found(actor_critic).sum().backward()
    assert any("lm_head" in name and value.grad is not None for name, value in actor_critic.trainable().items())


def test_an_adapted_head_goes_the_long_way() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"))
    actor_critic = build(model, value="adapter")
    stir(actor_critic)
    assert output_head_of(actor_critic.model) is None
    assert "adapted" in str(check_head(actor_critic, BATCH.ids_BS[3]))
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)


@pytest.mark.parametrize("method", [Prompt(virtual_tokens=4, init="random"), Prefix(virtual_tokens=4)])
def test_virtual_tokens_have_a_copy_as_their_reference(method: Prompt | Prefix) -> None:
    actor_critic = build(method.wrap(llama()), temperature=1.0)
    assert actor_critic.reference == "copy"
    start = actor_critic("reference", *parts(BATCH))
    assert torch.equal(actor_critic("policy", *parts(BATCH)).logprobs_BT, start)
    stir(actor_critic)
    assert torch.allclose(found(actor_critic), expected(actor_critic), atol=1e-5)
    assert not torch.allclose(found(actor_critic), start[3, : int(BATCH.lengths_B[3])])
    assert torch.equal(actor_critic("reference", *parts(BATCH)), start)
    found(actor_critic).sum().backward()
    assert all(value.grad is not None for value in actor_critic.parameter_groups()["policy"])


@pytest.mark.parametrize("options", [{"reference": "base"}, {"reference": "adapter"}, {"value": "adapter"}])
def test_virtual_tokens_cannot_share_their_base(options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="adapter in layers"):
        build(Prompt(virtual_tokens=4, init="random").wrap(llama()), **options)
