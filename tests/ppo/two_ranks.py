"""What one of two processes does for `test_two_ranks.py`: gradients of its half of a batch, wrapped in several ways."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ftune.backends.engines.sharding import unsharded
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from ftune.ppo.reward_adapter import PolicyBase
from ftune.ppo.saving import ready_to_save, save_policy, save_value
from ftune.ppo.sequences import Sequences
from tests.pair import group
from tests.ppo.models import lora, parts, sequences, stir

BATCH = sequences(count=8)
TOKENS = int(BATCH.lengths_B.sum())


def loss(out: Any, batch: Sequences, reference_BT: torch.Tensor) -> torch.Tensor:
    """A sum over tokens of all that a policy pass gives."""
    by_token = out.logprobs_BT * (1 + reference_BT) + 0.1 * out.entropy_BT + out.values_BT.square() - out.values_BT
    total: torch.Tensor = by_token.mul(batch.mask_BT).sum()
    return total


def text_loss(actor: Any, batch: Sequences) -> torch.Tensor:
    """Of all real tokens."""
    behind = torch.arange(batch.ids_BS.shape[1]) >= batch.ends_B[:, None]
    total: torch.Tensor = actor("text", batch.ids_BS, labels=batch.ids_BS.masked_fill(behind, -100))[0]
    return total


def backward(actor: Any, batch: Sequences, scale: float, *, text: bool) -> None:
    reference_BT = actor("reference", *parts(batch))
    (loss(actor("policy", *parts(batch)), batch, reference_BT) * scale).backward()
    if text:
        (text_loss(actor, batch) * scale).backward()


def made(value: Any, reward: Path) -> tuple[ActorCritic, Any]:
    actor_critic = build(lora(), value=value)
    score = PolicyBase(actor_critic, "", "", micro_batch_size=3).add_reward_adapter(str(reward))
    stir(actor_critic)
    return actor_critic, score


def wrapped(actor_critic: ActorCritic, kind: str) -> Any:
    if kind == "ddp":
        return DistributedDataParallel(actor_critic)
    for layer in actor_critic.model.get_base_model().model.layers:
        fully_shard(layer)
    return fully_shard(actor_critic)


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


def case(kind: str, value: str, rank: int, folder: Path) -> dict[str, float]:
    """Largest differences to one process that has the whole batch; a second pass is on ordinary text."""
    alone, score_alone = made(value, folder / "reward")
    backward(alone, BATCH, 1 / TOKENS, text=True)
    exact = {name: parameter.grad for name, parameter in alone.trainable().items()}
    rows = [[3, 4, 5], [6, 7], [8, 9, 10, 11], [12]]

    actor_critic, score = made(value, folder / "reward")
    actor = wrapped(actor_critic, kind)
    mine = BATCH.rows(torch.arange(rank, 8, 2))
    first, last = mine.rows(torch.arange(2)), mine.rows(torch.arange(2, 4))
    with actor.no_sync() if kind == "ddp" else nullcontext():
        backward(actor, first, 2 / TOKENS, text=True)
        (text_loss(actor, last) * 2 / TOKENS).backward()
    backward(actor, last, 2 / TOKENS, text=False)
    grads = {name: parameter.grad for name, parameter in actor_critic.trainable().items()}
    full = {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in grads.items()}
    start, state = alone.trainable_state(), actor_critic.trainable_state()
    found = {
        "gradients": max(gap(full[name], exact[name]) for name in exact),
        "largest": max(float(grad.abs().max()) for grad in exact.values()),
        "rewards": gap(score(rows), score_alone(rows)),
        "state": max(gap(state[name], start[name]) for name in start),
    }
    with unsharded(actor), torch.no_grad():
        inside = actor_critic.model(input_ids=BATCH.ids_BS).logits
    with torch.no_grad():
        found["generation"] = gap(inside, alone.model(input_ids=BATCH.ids_BS).logits)
    with ready_to_save(actor_critic, keep=rank == 0):
        if rank == 0:
            save_policy(actor_critic, folder / kind / value)
            save_value(actor_critic, folder / kind / value)
    actor_critic.load_trainable(start)
    reference = actor("reference", *parts(mine))
    found["after"] = gap(reference, alone("reference", *parts(mine)))
    return found


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    cases = [(kind, value) for kind in ("ddp", "fsdp") for value in ("trunk", "adapter")]
    with group(rank, folder / "meeting"):
        found = {f"{kind} {value}": case(kind, value, rank, folder) for kind, value in cases}
    (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
