"""Unsloth on the same rows: packed, its adapters, its kernels, and its own checkpointing where there is any."""

import sys
import tempfile
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from train_parts.clock import Clock, Made, Steps
from train_parts.peers import arguments
from train_parts.recipes import read
from train_parts.work import ALPHA, LORA_TARGETS, RANK, Job, Result

if TYPE_CHECKING:
    from ftune.data.prepared import Prepared

SEED = 1


def train(job: Job) -> Result:
    """Raises ValueError for rows that are trained in part only."""
    from trl import SFTConfig, SFTTrainer  # Unsloth's, which is imported before

    recipe, rows, located = read(job)
    clock = Clock(job)
    model, tokenizer = _model(job, located)
    with tempfile.TemporaryDirectory() as folder:
        said = arguments(job, recipe, best=True) | {
            "max_length": job.longest,
            "dataset_kwargs": None,
            "dataset_num_proc": 1,
            "use_liger_kernel": False,
            "optim": "adamw_torch_fused",  # as the others have it; Unsloth's own default keeps 8-bit moments
        }
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(output_dir=folder, **said),
            train_dataset=_dataset(rows),
            callbacks=[Steps(clock)],
            processing_class=tokenizer,
        )
        _count(trainer.data_collator, Made(trainer, clock))
        trainer.train()
        packed = bool(trainer.args.packing)  # without a GPU it leaves that out
    return clock.result() | {"peer": f"unsloth {version('unsloth')}", "packed": packed, "attention": _attention()}


def _attention() -> str:
    """Whose kernels Unsloth has found; it looks for them where it has a GPU."""
    found = sys.modules.get("unsloth.utils.attention_dispatch")
    if getattr(found, "HAS_FLASH_ATTENTION", False):
        return "flash-attn"
    return "xformers" if getattr(found, "HAS_XFORMERS", False) else "torch"


def _model(job: Job, located: str) -> Any:
    """Model and tokenizer; bf16 weights, also where all of them train."""
    from unsloth import FastLanguageModel

    checkpointing = "unsloth" if job.setting.checkpointing else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        located,
        max_seq_length=job.longest,
        dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        load_in_4bit=job.setting.quantized,
        full_finetuning=job.setting.full,
        use_gradient_checkpointing=checkpointing,
    )
    if not job.setting.full:
        model = FastLanguageModel.get_peft_model(
            model,
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0,
            bias="none",
            target_modules=LORA_TARGETS,
            use_gradient_checkpointing=checkpointing,
            random_state=SEED,
        )
    return model, tokenizer


def _dataset(rows: "Prepared") -> Any:
    """Tokens alone: Unsloth's trainer packs them, and trains each."""
    if any(rows.ids(index)[1:] != rows.labels(index)[1:] for index in range(len(rows))):
        raise ValueError("Unsloth is measured on rows of which each token is trained")
    return Dataset.from_list([{"input_ids": rows.ids(index)} for index in range(len(rows))])


def _count(collator: Any, made: Made) -> None:
    """Tell of the tokens of each batch that is made."""
    plain = collator.torch_call

    def counting(examples: list[dict[str, Any]]) -> Any:
        made.saw(sum(len(example["input_ids"]) for example in examples))
        return plain(examples)

    collator.torch_call = counting
