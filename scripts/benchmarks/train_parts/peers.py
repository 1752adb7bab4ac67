"""TRL's SFTTrainer on the same rows: as it ships, at its best, and with the settings of the recipe."""

import tempfile
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from train_parts.clock import Clock, Made, Steps
from train_parts.recipes import ACCUMULATION, read
from train_parts.work import Job, Result

if TYPE_CHECKING:
    from ftune.data.prepared import Prepared


def train(job: Job) -> Result:
    """`TRL as it ships` pads, and computes activations again; `TRL at its best` packs, without padding, with Liger."""
    from trl import SFTConfig, SFTTrainer

    recipe, rows, located = read(job)
    best = job.way == "TRL at its best"
    clock = Clock(job)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, **arguments(job, recipe, best=best))
        trainer = SFTTrainer(
            model=_model(job, recipe, located, best=best),
            args=config,
            train_dataset=_dataset(rows, pack=job.longest if best else 0),
            callbacks=[Steps(clock)],
            processing_class=_tokenizer(located),
        )
        collate, made = trainer.data_collator, Made(trainer, clock)

        def counting(examples: list[dict[str, Any]]) -> Any:
            made.saw(sum(len(example["input_ids"]) for example in examples))
            return collate(examples)

        trainer.data_collator = counting
        trainer.train()
    return clock.result()


def arguments(job: Job, recipe: Any, *, best: bool) -> dict[str, Any]:
    """What is said here; all else is TRL's default."""
    said: dict[str, Any] = {
        "max_steps": job.steps,
        "per_device_train_batch_size": recipe.batch.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch.accumulation(1),
        "learning_rate": 1e-5,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(),
        "seed": 1,
    }
    if job.way != "TRL as it ships":
        said["gradient_checkpointing"] = job.setting.checkpointing
        if not torch.cuda.is_available():
            said["bf16"] = False
    if best:
        said |= {"packing": True, "gradient_accumulation_steps": recipe.batch.accumulation(1) // ACCUMULATION or 1}
        said["use_liger_kernel"] = torch.cuda.is_available() and find_spec("liger_kernel") is not None
    return said


def _model(job: Job, recipe: Any, located: str, *, best: bool) -> Any:
    """The model with the recipe's method on it; adapters in bf16 at TRL's best, where they are faster."""
    from ftune.speed import varlen
    from ftune.speed.attention import candidates

    on_gpu = torch.cuda.is_available()
    weights = "fp32" if (job.setting.full and not best) or not on_gpu else "bf16"
    model = recipe.model.load(located, weights, "cuda" if on_gpu else "cpu", ())
    if best and on_gpu:
        candidates(torch.device("cuda"))  # TRL itself has no such attention without flash-attn
        model.set_attn_implementation(varlen.NAME)
    if job.setting.full:
        return model
    wrapped = recipe.peft.wrap(model)
    if best and on_gpu:
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return wrapped


def _dataset(rows: "Prepared", *, pack: int) -> Any:
    from datasets import Dataset

    from ftune.data.pack import pack as packed_rows
    from ftune.trainers.feed import packed

    alone = [{"input_ids": rows.ids(index), "labels": rows.labels(index)} for index in range(len(rows))]
    if not pack:
        return Dataset.from_list(alone)
    bins = packed_rows(rows.lengths.tolist(), pack)
    return Dataset.from_list(
        [packed([rows.ids(row) for row in some], [rows.labels(row) for row in some]) for some in bins]
    )


def _tokenizer(located: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(located)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer
