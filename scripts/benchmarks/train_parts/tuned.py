"""The loop tuned by hand: what this machine can do. Batches of one size, compiled layers, fused loss and optimiser."""

from collections.abc import Iterator

import torch

from ftune.data.pack import pack
from ftune.speed.flat import IGNORED, FlatCollator
from ftune.speed.loss import add_places
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
    """Packed batches of one size, and how many tokens of each are of rows; rows without labels fill them up."""
    _, rows, _ = read(job)
    size = job.rows * job.longest
    bins = [some for some in pack(rows.lengths.tolist(), size) if sum(rows.lengths[row] for row in some) > 0.9 * size]
    most = max(map(len, bins)) + FILL
    for some in bins:
        examples = [{"input_ids": rows.ids(row), "labels": rows.labels(row)} for row in some]
        tokens = sum(len(example["input_ids"]) for example in examples)
        for start in range(0, size - tokens, job.longest):
            filling = min(job.longest, size - tokens - start)
            examples.append({"input_ids": [0] * filling, "labels": [IGNORED] * filling})
        batch = add_places(FlatCollator(job.longest)(examples))
        borders = batch["cu_seq_lens_q"]
        batch["cu_seq_lens_q"] = torch.cat([borders, borders[-1:].expand(most + 1 - len(borders))])
        yield batch, tokens
