"""Tiny random models and right-padded sequences for the tests of this folder."""

from typing import Any

import torch

from ftune.peft.lora import Lora
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.sequences import Sequences

VOCABULARY = 61


def llama(seed: int = 0, **settings: Any) -> Any:
    """Two layers with contrast in their logits, and with a dropout that PPO has to switch off."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "attention_dropout": 0.1,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))


def lora(**fields: Any) -> Any:
    """The tiny model with a new adapter."""
    return Lora.model_validate({"rank": 4, **fields}).wrap(llama())


def sequences(count: int = 4, seed: int = 1) -> Sequences:
    """Prompts of 3 tokens and more, responses of 1 token and more."""
    drawn = torch.Generator().manual_seed(seed)
    starts_B = torch.randint(3, 6, (count,), generator=drawn)
    ends_B = starts_B + torch.arange(count) % 6 + 1
    ids_BS = torch.randint(3, VOCABULARY, (count, int(ends_B.max())), generator=drawn)
    return Sequences(ids_BS, starts_B, ends_B)


def parts(batch: Sequences) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the actor-critic takes."""
    return batch.ids_BS, batch.starts_B, batch.ends_B


@torch.no_grad()
def stir(actor_critic: ActorCritic, seed: int = 2, scale: float = 0.1) -> None:
    """Move everything that trains, as optimiser steps would."""
    torch.manual_seed(seed)
    for value in actor_critic.trainable_parameters():
        value.add_(scale * torch.randn(value.shape))


def gradients(actor_critic: ActorCritic) -> dict[str, torch.Tensor]:
    """Of everything that trains; also clears them."""
    found = {name: value.grad for name, value in actor_critic.trainable().items() if value.grad is not None}
    actor_critic.zero_grad(set_to_none=True)
    return found
