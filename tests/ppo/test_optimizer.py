"""What an optimiser of PPO does to which parameter."""

from pathlib import Path

import pytest
import torch

from ftune.core.errors import CheckpointError
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from ftune.ppo.optimizer import make_optimizer
from ftune.ppo.state import State, load_checkpoint, save_checkpoint, snapshot
from tests.ppo.models import llama


def optimizer_of(actor: ActorCritic, name: str = "adamw", weight_decay: float = 0.5) -> torch.optim.Optimizer:
    rates = {"policy": 0.1, "value": 0.2}
    return make_optimizer(name, actor.parameter_groups(), rates, betas=(0.9, 0.95), eps=1e-5, weight_decay=weight_decay)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_only_matrices_of_the_policy_decay(name: str) -> None:
    actor = build(llama(), reference="copy", value="copy")
    torch.nn.init.ones_(actor.value_head.weight)
    optimizer = optimizer_of(actor, name)
    assert {group["role"]: group["lr"] for group in optimizer.param_groups} == {"policy": 0.1, "value": 0.2}
    before = actor.trainable_state()
    for value in actor.trainable_parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    after = actor.trainable_state()
    decayed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert decayed == {name for name in after if name.startswith("model.") and "norm" not in name}
    assert all(torch.allclose(after[name], 0.95 * before[name]) for name in decayed)


def test_a_checkpoint_with_other_groups_is_refused(tmp_path: Path) -> None:
    actor = build(llama(), reference="copy")
    taken = snapshot(actor, optimizer_of(actor, weight_decay=0.0), keep=True)
    folder = save_checkpoint(tmp_path, State(), taken, keep=1, facts={})
    with pytest.raises(CheckpointError, match=r"checkpoint-0: its optimiser does not fit \(.*groups.*\); start a new"):
        load_checkpoint(folder, actor, optimizer_of(actor))
