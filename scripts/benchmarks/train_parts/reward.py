"""A reward model on the same pairs: `ftune rm` as a user starts it, or TRL's RewardTrainer."""

import tempfile
from typing import TYPE_CHECKING, Any

import torch

from train_parts.clock import Clock, Made, Steps
from train_parts.recipes import read
from train_parts.work import Job, Result

if TYPE_CHECKING:
    from ftune.data.prepared import Prepared

OFF = ["speed.packed_attention=off", "speed.folded_lora=off", "speed.compiled_layers=off"]
TRL = "TRL"
WAYS: dict[str, list[str]] = {"ftune": [], "ftune, padded": OFF}
"""What `ftune rm` is told beside the recipe. TRL gets the recipe's settings, and bf16 on a GPU."""


def train(job: Job) -> Result:
    """By the job's way."""
    return _trl(job) if job.way == TRL else _ours(job)


def _ours(job: Job) -> Result:
    from train_parts.ours import measured

    return measured(job, "rm", WAYS[job.way])


def _trl(job: Job) -> Result:
    """Batches are padded to their longest row; adapters are in bf16 on a GPU, where they are faster."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    recipe, rows, located = read(job)
    clock, on_gpu = Clock(job), torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(located)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model: Any = AutoModelForSequenceClassification.from_pretrained(located, num_labels=1, dtype=dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    model = recipe.peft.wrap(model.to("cuda" if on_gpu else "cpu"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(output_dir=folder, **_arguments(job, recipe, on_gpu=on_gpu)),
            train_dataset=_pairs(rows),
            callbacks=[Steps(clock)],
            processing_class=tokenizer,
        )
        collate, made = trainer.data_collator, Made(trainer, clock)

        def counting(examples: list[dict[str, Any]]) -> Any:
            made.saw(sum(len(example[side]) for example in examples for side in ("chosen_ids", "rejected_ids")))
            return collate(examples)

        trainer.data_collator = counting
        trainer.train()
    return clock.result()


def _arguments(job: Job, recipe: Any, *, on_gpu: bool) -> dict[str, Any]:
    """What is said here; all else is TRL's default."""
    return {
        "max_steps": job.steps,
        "per_device_train_batch_size": recipe.batch.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch.accumulation(1),
        "gradient_checkpointing": bool(recipe.batch.checkpointing),
        "learning_rate": recipe.training_args()["learning_rate"],
        "max_length": None,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 1,
    }


def _pairs(rows: "Prepared") -> Any:
    from datasets import Dataset

    others = rows.rejected()
    return Dataset.from_list(
        [{"chosen_ids": rows.ids(index), "rejected_ids": others.ids(index)} for index in range(len(rows))]
    )
