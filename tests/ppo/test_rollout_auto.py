"""The engine that is chosen, and that it is said."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftune.core.errors import ModelError
from ftune.ppo.rollout.auto import Auto
from ftune.ppo.rollout.base import Policy, Sampling
from ftune.ppo.rollout.continuous import Continuous
from ftune.ppo.rollout.generate import Generate


@pytest.fixture
def policy() -> Policy:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    return Policy(model.eval(), pad_id=0, stop_ids=(1,))


def test_on_a_cpu_it_is_generate_and_the_name_says_why(policy: Policy) -> None:
    engine = Auto().open(policy)
    assert engine.name == "generate (on cpu)"
    prompts = [[5, 6], [7]]
    assert engine.generate(prompts, Sampling(4), 1) == Generate().open(policy).generate(prompts, Sampling(4), 1)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_micro_batch_changes_no_likeliest_token(policy: Policy, size: int) -> None:
    prompts = [[token] * (1 + token % 4) for token in range(2, 14)]
    greedy = Sampling(6, temperature=1e-5)
    whole = Generate().open(policy).generate(prompts, greedy, 0)
    cut = Generate(micro_batch_size=size).open(policy).generate(prompts, greedy, 0)
    assert [rollout.token_ids for rollout in cut] == [rollout.token_ids for rollout in whole]


def test_attention_that_cannot_be_paged_is_refused_with_the_way_out(policy: Policy) -> None:
    policy.model.config._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match=r"flex_attention.*rollout.type=generate"):
        Continuous().open(policy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_reaches_the_thread_of_continuous_batching(policy: Policy, dtype: torch.dtype) -> None:
    seen = []
    policy.model.to(dtype)
    policy.model.lm_head.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    under = replace(policy, autocast=torch.bfloat16)
    if dtype is torch.float32:
        with pytest.raises(ModelError, match=r"weights, float32, .* load the model in bfloat16"):
            Continuous().open(under)
        return
    Continuous().open(under).generate([[5, 6], [7]], Sampling(3), 0)
    assert seen
    assert all(seen)
    assert not policy.model._forward_pre_hooks


def test_a_failure_inside_continuous_batching_is_told(policy: Policy) -> None:
    with pytest.raises(ModelError, match=r"Llama.* failed: .*; use rollout.type=generate"):
        Continuous().open(policy).generate([[5, 4000]], Sampling(4), 0)  # 4000 is no token of the model
