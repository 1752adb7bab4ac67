"""What one of two processes does for `test_update.py`: updates on its half of the rollouts, wrapped by accelerate."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ftune.ppo.build import build
from ftune.ppo.experience import Experience
from ftune.ppo.update import Ptx, Updated, update
from tests.ppo.learning import Recording, judged, learned_from, learner, text_batch
from tests.ppo.models import lora, sequences, stir

EPOCHS = 2
RATE = 0.05
SETTINGS: dict[str, Any] = {"epochs": EPOCHS, "entropy_coefficient": 0.01, "clip_range": 0.05, "minibatch_size": 8}


def off(found: Experience, amount: float) -> Experience:
    """As if the policy had been another one when it made the rollouts."""
    found.judged.logprobs_BT.sub_(amount)
    return found


def run(
    accelerator: Accelerator, *, amount: float = 0.0, micro_batch_size: int = 4, **options: Any
) -> tuple[Updated, Recording]:
    """An update on the rank's share of eight rollouts: every second one with two ranks, all of them with one."""
    rank, ranks = accelerator.process_index, accelerator.num_processes
    actor = build(lora())
    stir(actor)
    recording = Recording(actor, RATE)
    wrapped = accelerator.prepare_model(actor)
    reduce = partial(accelerator.reduce, reduction="sum")
    before = judged(wrapped, sequences(8).rows(torch.arange(rank, 8, ranks)))
    found = off(learned_from(before, reduce=reduce, offset=rank, step=ranks), amount)
    learning = learner(
        actor,
        recording,
        accelerator=accelerator,
        wrapped=wrapped,
        reduce=reduce,
        max_grad_norm=0.5,
        micro_batch_size=micro_batch_size,
        ptx=Ptx(lambda step: text_batch(step * ranks + rank, 4 // ranks), 0.3),
        **{**SETTINGS, **options},
    )
    return update(learning, found, seed=[1, rank], first_step=0, value_only=False), recording


def main(rank: int, folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    assert (accelerator.num_processes, accelerator.process_index) == (2, rank)
    done, recording = run(accelerator, micro_batch_size=1)
    torch.save(
        {
            "gradients": recording.seen,
            "parameters": recording.actor.trainable_state(),
            "means": done.averages.reduced(partial(accelerator.reduce, reduction="sum")),
        },
        folder / f"rank_{rank}.pt",
    )
    stopped, _ = run(accelerator, amount=2.0 * rank, target_kl=0.1, max_ratio=1e6)
    skipped, _ = run(accelerator, amount=4.0 * rank)
    facts = {
        "stopped": [stopped.stopped_early, stopped.steps],
        "skipped": [skipped.steps, skipped.skipped],
    }
    (folder / f"rank_{rank}.json").write_text(json.dumps(facts), encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = sys.argv[1]
    main(int(sys.argv[1]), Path(sys.argv[2]))
