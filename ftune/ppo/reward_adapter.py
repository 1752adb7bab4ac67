"""A reward model as a further frozen adapter on the policy's base: no second copy of the weights."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftune.core.errors import ModelError
from ftune.peft.adapters import loading_adapter
from ftune.peft.targets import HEADS
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.adapters import adapted_layers, restore_trainable
from ftune.ppo.sequences import micro_batches

WAY_OUT = "let it have a base of its own ('memory: separate')"


@dataclass(frozen=True, slots=True)
class PolicyBase:
    """What `ftune.rewards.base.SharedBase` asks for. Adapters are added before the actor-critic is wrapped."""

    actor_critic: ActorCritic
    located: str
    """What `from_pretrained` opened."""
    fingerprint: str
    """Of its weights."""
    micro_batch_size: int

    @property
    def quantized(self) -> bool:
        """Whether the weights are quantised in memory."""
        return getattr(self.actor_critic.model, "hf_quantizer", None) is not None

    def add_reward_adapter(self, folder: str) -> Callable[[list[list[int]]], Tensor]:
        """Load the adapter of a sequence classification model, frozen.

        The result gives the logits, shape (rows, classes) in fp32, of rows of token ids, at each row's last token.
        Raises ModelError for an adapter or a head that cannot be put on this base.
        """
        name = f"reward_{len(self.actor_critic.reward_heads)}"
        self.actor_critic.reward_heads[name] = _load(self.actor_critic, folder, name)

        def logits(rows: list[list[int]]) -> Tensor:
            return _logits(self.actor_critic, name, rows, self.micro_batch_size)

        return logits


def _load(actor_critic: ActorCritic, folder: str, name: str) -> nn.Parameter:
    """Put the adapter onto the base; its head, shape (classes, D), frozen in fp32. Raises ModelError."""
    model = actor_critic.model
    if not adapted_layers(model):
        raise ModelError(f"rewards: '{folder}' needs a policy that is an adapter in layers; {WAY_OUT}")
    if hasattr(model, "lora_start"):
        raise ModelError(
            f"rewards: '{folder}' was trained on the base, out of which 'peft.init' took the policy's start; {WAY_OUT}"
        )
    trained = actor_critic.trainable().keys()
    try:
        with torch.random.fork_rng(devices=[]):
            return _loaded(model, folder, name)
    except ModelError:
        if name in model.peft_config:
            model.delete_adapter(name)
        raise
    finally:
        restore_trainable(actor_critic, trained)
        actor_critic.settle()


def _loaded(model: Any, folder: str, name: str) -> nn.Parameter:
    """The head of the adapter, which was put into the model. Raises ModelError, and may leave the adapter there."""
    from peft import load_peft_weights

    device = str(next(model.parameters()).device)
    try:
        with loading_adapter(model):
            loaded = model.load_adapter(folder, name, is_trainable=False, torch_device=device)
        head = _head(load_peft_weights(folder, device=device), folder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"rewards: '{folder}' cannot be put on the policy's base: {cause[0]}; {WAY_OUT}") from error
    strange = [key for key in loaded.unexpected_keys if not _is_head(key)] + list(loaded.missing_keys)
    if strange:
        raise ModelError(f"rewards: '{folder}' does not fit the policy's base at '{strange[0]}'; {WAY_OUT}")
    return head


def _head(weights: dict[str, Tensor], folder: str) -> nn.Parameter:
    """The one matrix that makes logits of hidden states. Raises ModelError for heads of another form."""
    found = {key: value for key, value in weights.items() if _is_head(key)}
    if len(found) != 1 or next(iter(found.values())).dim() != 2:
        kind = f"has {', '.join(found)}" if found else "has none"
        raise ModelError(f"rewards: the head of '{folder}' is not one matrix without bias (it {kind}); {WAY_OUT}")
    return nn.Parameter(next(iter(found.values())).float(), requires_grad=False)


def _is_head(key: str) -> bool:
    return re.search(rf"(^|\.)({'|'.join(HEADS)})\.", key) is not None


@torch.no_grad()
def _logits(actor_critic: ActorCritic, name: str, rows: Sequence[Sequence[int]], micro_batch_size: int) -> Tensor:
    """Logits of rows of token ids, in their order, computed with rows of similar length together."""
    device = actor_critic.reward_heads[name].device
    ends_B = torch.tensor([len(row) for row in rows])
    out = torch.zeros(len(rows), actor_critic.reward_heads[name].shape[0], device=device)
    for index in micro_batches(ends_B, micro_batch_size):
        ids = torch.zeros(len(index), int(ends_B[index].max()), dtype=torch.int64)
        for line, row in zip(ids, index.tolist(), strict=True):
            line[: len(rows[row])] = torch.tensor(rows[row])
        out[index.to(device)] = actor_critic("reward", ids.to(device), ends_B[index].to(device), name)
    return out
