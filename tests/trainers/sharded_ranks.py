"""What one of two processes does for `test_sharded.py`: trains a split model, saves it with the other, loads it."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import LlamaConfig, LlamaForSequenceClassification

from ftune.backends.engines.sharding import gathered, whole
from ftune.peft.lora import Lora
from ftune.trainers.checkpoint_state import Beside, load_state, save_state
from ftune.trainers.fsdp import split_model
from ftune.trainers.head import put_head
from ftune.trainers.torch_state import TorchState
from tests.pair import group
from tests.ppo.models import VOCABULARY, llama

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "lora": ("lora", {"reshard_after_forward": False}),
    "copies": ("full", {"copies": 2, "offload": True}),
}
"""What trains, and how the model is split."""


def made(kind: str, seed: int = 0) -> Any:
    """Tied weights where all train; an adapter on frozen ones."""
    model = llama(seed, tie_word_embeddings=kind == "full", attention_dropout=0.0)
    return Lora(rank=4).wrap(model) if kind == "lora" else model


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Its groups are in another order than the model's parameters."""
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    attention = {name for name in named if "self_attn" in name}
    groups = [
        {"params": [named[name] for name in named if name in attention], "lr": 0.02},
        {"params": [named[name] for name in named if name not in attention]},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.01, fused=True)


def batch(step: int) -> torch.Tensor:
    """Token ids of a step, shape (4, 9)."""
    return torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(step))


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range, rank: int = 0, count: int = 1) -> list[float]:
    """Losses of the ranks' rows, each step in two micro-batches; gradients are clipped to a norm."""
    losses = []
    for step in steps:
        loss = 0.0
        for rows in batch(step)[rank::count].chunk(2):
            part = model(input_ids=rows, labels=rows).loss / 2
            part.backward()
            loss += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert float(whole(norm)) > 0.5
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def look(model: Any) -> float:
    """A loss without gradients, after which FSDP2 leaves gathered weights in the model."""
    with torch.no_grad():
        return float(model(input_ids=batch(99), labels=batch(99)).loss)


def case(name: str, rank: int, folder: Path) -> dict[str, Any]:
    kind, settings = CASES[name]
    device = torch.device("cpu")
    model = made(kind)
    split_model(model, device, "fp32", **settings)
    optimizer = optimizer_of(model)
    losses = train(model, optimizer, range(3), rank, 2)
    seen = look(model)
    ranks = {"rank": rank, "count": 2, "beside": Beside({"step": 3})}
    (folder / name).mkdir(exist_ok=True)
    save_state(TorchState(model, optimizer), folder / name, **ranks, file_bytes=20_000)
    with gathered(model, keep=rank == 0):
        if rank == 0:
            model.save_pretrained(str(folder / f"{name}-result"))
    distributed.barrier()  # both have written what both read

    other = made(kind, seed=5)
    if kind == "lora":  # frozen weights are those of the base
        other.load_state_dict(made(kind).state_dict())
    split_model(other, device, "fp32", **settings)
    again = optimizer_of(other)
    look(other)
    load_state(TorchState(other, again), folder / name)
    found = {"losses": losses, "seen": [seen, look(other)]}
    found["on"] = [train(*run, range(3, 5), rank, 2) for run in ((model, optimizer), (other, again))]

    load_state(TorchState(other, again), folder / f"{name}-alone")  # what one process has written
    (folder / f"{name}-copied").mkdir(exist_ok=True)
    save_state(TorchState(other, again), folder / f"{name}-copied", **ranks)
    return found


def overflow(rank: int) -> dict[str, Any]:
    """What fp16's loss scaler does about an overflow that one rank alone has: its scale after the step, and changes."""
    model = made("full")
    split_model(model, torch.device("cpu"), "fp32")
    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    changes = []
    for step in range(3):
        before = TorchState(model).weight("model.embed_tokens.weight")
        rows = batch(step)[rank::2]
        scaler.scale(model(input_ids=rows, labels=rows).loss).backward()
        if step == 1 and rank == 1:
            grad: Any = next(model.parameters()).grad
            grad.to_local().fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        changes.append(not torch.equal(TorchState(model).weight("model.embed_tokens.weight"), before))
    return {"scale": scaler.get_scale(), "changes": changes}


def scored() -> float:
    """How far, relative to them, scores of a model that computes in bf16 are from those of its head in fp32."""

    def classifier() -> Any:
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(**llama(num_labels=1).config.to_diff_dict()))
        put_head(model, new=True, seed=1)
        return model.eval()

    model, split = classifier(), classifier()
    split_model(split, torch.device("cpu"), "bf16")
    for weight in model.model.parameters():  # not the buffers, which FSDP2 leaves as they are
        weight.data = weight.to(torch.bfloat16)
    with torch.no_grad():
        wanted, found = (one(input_ids=batch(0)).logits for one in (model, split))
    return float((found - wanted).abs().max() / wanted.abs().max())


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    with group(rank, folder / "meeting"):
        found = {name: case(name, rank, folder) for name in CASES} | {"overflow": overflow(rank)}
        found["scored"] = {"off": scored()}
    (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
