"""The loop tuned by hand: what this machine can do. Batches of one size, compiled layers, fused loss and optimiser."""

from collections.abc import Iterator

import torch

from ftune.data.pack import pack
from ftune.speed.flat import FixedShape, FlatCollator
from ftune.speed.loss import add_places
from ftune.trainers.feed import packed
from train_parts.clock import Clock
from train_parts.recipes import read
from train_parts.tuned_net import Net
from train_parts.work import MODELS, Job, Result

FILL = 8
"""Rows that may fill a batch up."""


def train(job: Job) -> Result:
    """Raises ValueError for what the loop does not have."""
    if job.setting.quantized:
        raise ValueError("the loop has no 4-bit weights")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = list(_batches(job))
    net = Net(MODELS[job.setting.model], full=job.setting.full, device=device, compiled=device == "cuda")
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=True)
    clock = Clock(job)
    losses = []
    for step in range(job.steps):
        batch, tokens = batches[step % len(batches)]
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items() if torch.is_tensor(value)}
        loss = net(batch, job.longest, checkpointing=job.setting.checkpointing).loss / len(batch["loss_places"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        net.fold()
        losses.append(loss.detach())
        clock.saw(tokens)
        clock.step()
    clock.losses = [float(loss) for loss in losses]
    return clock.result()


def _batches(job: Job) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
    """Packed batches of one size, and how many tokens of each are of rows."""
    _, rows, _ = read(job)
    size = job.rows * job.longest
    bins = [some for some in pack(rows.lengths.tolist(), size) if sum(rows.lengths[row] for row in some) > 0.9 * size]
    shape = FixedShape(size, max(map(len, bins)) + FILL, job.longest)
    collate = FlatCollator(0, shape)
    for some in bins:
        example = packed([rows.ids(row) for row in some], [rows.labels(row) for row in some])
        yield add_places(collate([example])), len(example["input_ids"])
