"""What one of two processes does for `test_zero.py`: the same short training by ZeRO in several ways."""

import json
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from ftune.trainers.zero.joining import zero_arguments
from ftune.trainers.zero.state import ZeroState
from ftune.trainers.zero.stepping import step_apart
from ftune.trainers.zero.whole import whole
from tests.pair import group

RANKS, MICRO, ACCUMULATION, RATE, CLIP = 2, 2, 2, 1e-2, 1.0
ROWS_OF_A_STEP = RANKS * MICRO * ACCUMULATION
SPREAD = {"stage": 3, "stage3_param_persistence_threshold": 64}
"""Some parameters are split, small ones stay on all ranks."""
IN_CPU = {"device": "cpu", "pin_memory": False}
ZERO: dict[str, dict[str, Any]] = {
    "1": {"stage": 1},
    "2": {"stage": 2},
    "3": SPREAD,
    "2 offloaded": {"stage": 2, "offload_optimizer": IN_CPU},
    "3 offloaded": {**SPREAD, "offload_optimizer": IN_CPU, "offload_param": IN_CPU},
    "3 on a drive": {
        **SPREAD,
        "offload_optimizer": {"device": "nvme", "pin_memory": False},
        "offload_param": {"device": "nvme", "pin_memory": False, "buffer_count": 40, "buffer_size": 100_000},
    },
}

Saved = dict[str, Any]


def llama(method: str) -> Any:
    """Odd sizes: two ranks cannot share all of its parameters evenly."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 65, "hidden_size": 24, "intermediate_size": 27, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **tokens, initializer_range=0.2))
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False))


def rows(steps: range) -> list[dict[str, Any]]:
    """Those of some steps."""
    made = []
    for number in range(steps.start * ROWS_OF_A_STEP, steps.stop * ROWS_OF_A_STEP):
        draw = torch.Generator().manual_seed(number)
        ids = torch.randint(3, 65, (5 + number % 4,), generator=draw)
        made.append({"input_ids": ids, "labels": ids})
    return made


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    padding = {"input_ids": 0, "labels": -100}
    pad = torch.nn.utils.rnn.pad_sequence
    return {key: pad([one[key] for one in examples], True, value) for key, value in padding.items()}


class ZeroTrainer(Trainer):
    """As ftune's trainers use ZeRO, with nothing else around it."""

    def __init__(self, method: str, kind: str, steps: range, folder: Path, **settings: Any) -> None:
        config = {
            "train_micro_batch_size_per_gpu": MICRO,
            "gradient_accumulation_steps": ACCUMULATION,
            "gradient_clipping": CLIP,
            "zero_optimization": deepcopy(ZERO[kind]),
        }
        for place in config["zero_optimization"].values():  # type: ignore[attr-defined]
            if isinstance(place, dict) and place["device"] == "nvme":
                place["nvme_path"] = str(folder / "drive")
        given: dict[str, Any] = {"bf16": False, "lr_scheduler_type": "constant", "use_cpu": True, **settings}
        args = {
            "deepspeed": config,
            "output_dir": str(folder),
            "per_device_train_batch_size": MICRO,
            "gradient_accumulation_steps": ACCUMULATION,
            "max_steps": len(steps),
            "learning_rate": RATE,
            "max_grad_norm": CLIP,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "train_sampling_strategy": "sequential",
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
        }
        super().__init__(
            model=llama(method),
            args=TrainingArguments(**zero_arguments(args | given)),
            train_dataset=rows(steps),  # type: ignore[arg-type]
            data_collator=collate,
        )
        self.spoilt: dict[int, float] = {}
        self.before: Saved | None = None
        self.norms: list[float] = []
        self.found: list[float] = []

    def _prepare_for_training(self, *args: Any) -> Any:
        prepared = super()._prepare_for_training(*args)
        self.step = step_apart(self)
        if self.before is not None:
            put(ZeroState(self.deepspeed), self.before)
        return prepared

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, and on one rank, in some steps, something else."""
        loss = super().compute_loss(*args, **kwargs)
        return loss + self.spoilt.get(self.state.global_step, 0.0) * (self.args.process_index == 1)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """A pass, and whether its loss is a number."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.bad = getattr(self, "bad", False) or not bool(loss.isfinite())
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> float:
        norm: float = super()._get_grad_norm(*args, **kwargs)
        bad = torch.tensor(float(self.bad or norm != norm))
        distributed.all_reduce(bad)
        self.bad = False
        if bad:
            self.step.discard()
        self.norms.append(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Keep the losses."""
        if "loss" in logs:
            self.found.append(logs["loss"])


def taken(state: ZeroState) -> Saved:
    """All that a checkpoint would hold, on the CPU."""
    names = state.names()
    content: Saved = {"weights": {name: state.weight(name).cpu().clone() for name in names}}
    content["optimizer"] = {
        name: {key: value.cpu().clone() for key, value in state.optimizer(name).items()} for name in names
    }
    scalars: Saved = json.loads(json.dumps(state.scalars()))
    return {**content, "scalars": scalars}


def put(state: ZeroState, saved: Saved) -> None:
    for name, value in saved["weights"].items():
        state.put_weight(name, value)
    for name, values in saved["optimizer"].items():
        state.put_optimizer(name, values)
    state.put_scalars(saved["scalars"])


def trained(method: str, kind: str, steps: range, folder: Path, **how: Any) -> tuple[ZeroTrainer, Saved]:
    """A trainer after these steps, and the state behind them."""
    before, spoilt = how.pop("before", None), how.pop("spoilt", {})
    trainer = ZeroTrainer(method, kind, steps, folder, **how)
    trainer.before, trainer.spoilt = before, spoilt
    trainer.train()
    return trainer, taken(ZeroState(trainer.deepspeed))


def reference(method: str, steps: range) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses, norms and weights of one process that has whole batches, written out."""
    model = llama(method)
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    losses, norms = [], []
    for step in steps:
        batch = collate(rows(range(step, step + 1)))
        loss = model(**batch, attention_mask=batch["input_ids"] != 0).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, CLIP)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
    return losses, norms, weights


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of tensors; endless where they are of different names."""
    if one.keys() != other.keys():
        return float("inf")
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def apart(one: Saved, other: Saved) -> float:
    """The largest difference between two states."""
    if one["optimizer"].keys() != other["optimizer"].keys():
        return float("inf")
    moments = [gap(one["optimizer"][name], other["optimizer"][name]) for name in one["optimizer"]]
    return max(gap(one["weights"], other["weights"]), *moments)


def exported(trainer: ZeroTrainer, folder: Path, method: str) -> None:
    first = trainer.args.process_index == 0
    with whole(trainer.model, keep=first, frozen=lambda name: method == "full"):
        if first:
            trainer.model.save_pretrained(str(folder))
    distributed.barrier()


def held_out(trainer: ZeroTrainer) -> Tensor:
    trainer.model.eval()
    with torch.no_grad():
        logits: Tensor = trainer.model(**collate(rows(range(50, 51)))).logits
    trainer.model.train()
    return logits


def case(method: str, kind: str, other: str, folder: Path) -> dict[str, Any]:
    """Differences of a run to what it should be; `other` is the kind that goes on from its checkpoint."""
    losses, norms, weights = reference(method, range(6))
    trainer, end = trained(method, kind, range(6), folder)
    found: dict[str, Any] = {
        "losses": max(abs(a - b) / b for a, b in zip(trainer.found, losses, strict=True)),
        "norms": max(abs(a - b) / b for a, b in zip(trainer.norms, norms, strict=True)),
        "weights": gap(end["weights"], weights),
    }
    before = held_out(trainer)
    exported(trainer, folder / f"{method} {kind}", method)
    found["evaluated as before the export"] = float((held_out(trainer) - before).abs().max())
    torch.save(before, folder / f"{method} {kind}.pt")
    trainer.deepspeed.destroy()
    middle = trained(method, kind, range(3), folder)[1]
    for name in (kind, other):
        found[f"goes on as {name}"] = apart(trained(method, name, range(3, 6), folder, before=middle)[1], end)
    spoilt = trained(method, kind, range(6), folder, spoilt={6: float("nan")})[1]
    return found | {"never spoilt": apart(spoilt, end)}


def skipped(kind: str, bad: float, folder: Path) -> float:
    """A step with a bad loss changes nothing: the largest difference to a run that never had it."""
    start = trained("full", kind, range(2), folder)[1]
    trainer, spoilt = trained("full", kind, range(2, 5), folder, before=start, spoilt={1: bad})
    without = trained("full", kind, range(2, 3), folder, before=start)[1]
    without = trained("full", kind, range(4, 5), folder, before=without)[1]
    return apart(spoilt, without) if len(trainer.norms) == 3 else float("inf")


def main() -> None:
    rank, folder, what = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    cases: dict[str, Callable[[], Any]] = {
        "full 3": lambda: case("full", "3", "2", folder),
        "lora 1": lambda: case("lora", "1", "3", folder),
        "skipped 2": lambda: skipped("2", float("inf"), folder),
        "skipped 3": lambda: skipped("3", float("nan"), folder),
        "full 1": lambda: case("full", "1", "2", folder),
        "full 2": lambda: case("full", "2", "3", folder),
        "lora 2": lambda: case("lora", "2", "1", folder),
        "lora 3": lambda: case("lora", "3", "1", folder),
        "full 2 offloaded": lambda: case("full", "2 offloaded", "1", folder),
        "full 3 offloaded": lambda: case("full", "3 offloaded", "1", folder),
        "lora 3 offloaded": lambda: case("lora", "3 offloaded", "2", folder),
        "skipped 2 offloaded": lambda: skipped("2 offloaded", float("inf"), folder),
        "skipped 3 offloaded": lambda: skipped("3 offloaded", float("inf"), folder),
        "full 3 on a drive": lambda: case("full", "3 on a drive", "3", folder),
        "skipped 3 on a drive": lambda: skipped("3 on a drive", float("inf"), folder),
    }
    with group(rank, folder / f"store_{what}"):
        found = {name: cases[name]() for name in what.split(",")}
    (folder / f"{what}.{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
