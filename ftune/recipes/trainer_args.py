"""`trainer_args`: names checked against the installed TrainingArguments without importing it."""

import ast
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ftune.core.suggest import did_you_mean

_FILES = {
    "TrainingArguments": ("transformers", "training_args.py"),
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "RewardConfig": ("trl", "trainer/reward_config.py"),
}

_MANAGED = {
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "backend.device",
    "max_length": "data.max_length",
    "packing": "data.packing",
    "packing_strategy": "data.packing",
    "padding_free": "data.packing",
    "eval_packing": "data.packing",
    "assistant_only_loss": "data.mask",
    "completion_only_loss": "data.mask",
    "truncation_mode": "data.on_long_row",
    "dataset_text_field": "data.format",
    "dataset_num_proc": "data.num_proc",
    "chat_template_path": "model.chat_template",
    "trust_remote_code": "model.trust_remote_code",
    "activation_checkpointing": "batch.activation_checkpointing",
    "activation_checkpointing_kwargs": "batch.activation_checkpointing",
    "resume_from_checkpoint": "the --resume option",
    "deepspeed": "backend",
    "fsdp": "backend",
    "fsdp_config": "backend",
    "local_rank": "backend",
    "parallelism_config": "backend",
    **dict.fromkeys(("ddp_backend", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph"), "backend"),
    "hub_token": "'hf auth login'",
    "run_name": "output_dir",
}
_FIXED = {
    "dataset_kwargs": "rows are prepared before the trainer sees them",
    "model_init_kwargs": "the model is loaded before the trainer sees it",
    "remove_unused_columns": "row numbers travel with the batches",
    "logging_nan_inf_filter": "a non-finite loss must be seen",
    "enable_jit_checkpoint": "signals are handled by ftune",
    "disable_tqdm": "progress is shown by ftune",
    "save_only_model": "a checkpoint must be resumable",
    "auto_find_batch_size": "it changes the batch size behind the recipe",
    "push_to_hub": "pushing is a step of its own after the run",
    "load_best_model_at_end": "checkpoints are verified and rotated by ftune",
    "disable_dropout": "dropout of the model itself is off; that of an adapter is 'peft.dropout'",
    "do_train": "it does nothing here",
    "do_eval": "it does nothing here",
    "do_predict": "it does nothing here",
    **dict.fromkeys(
        ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        "'log.trackers' sends curves; WANDB_PROJECT, TRACKIO_PROJECT and TRACKIO_SPACE_ID say where",
    ),
    "pad_token": "the tokenizer's own is used",
    "eos_token": "the tokenizer's own is used",
}


@cache
def known_arguments(arguments_class: str) -> frozenset[str]:
    """Names of all fields of the installed TrainingArguments and of that class, read from their source."""
    names: set[str] = set()
    for wanted in ("TrainingArguments", arguments_class):
        package, file = _FILES[wanted]
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == wanted:
                fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                names |= {target.id for target in fields if isinstance(target, ast.Name)}
    return frozenset(names)


def check_trainer_args(given: Collection[str], owned: Mapping[str, str], arguments_class: str) -> dict[str, str]:
    """What is wrong with each given name; `owned` maps arguments to the recipe section that sets them.

    `arguments_class` is the class of TRL that takes them.
    """
    faults: dict[str, str] = {}
    for name in given:
        if owner := _MANAGED.get(name) or owned.get(name):
            faults[name] = f"belongs to {owner}; set it there"
        elif reason := _FIXED.get(name):
            faults[name] = f"cannot be set: {reason}"
        elif name not in known_arguments(arguments_class):
            hint = did_you_mean(name, known_arguments(arguments_class))
            hint = hint if hint.startswith("; did") else "; see the documentation of transformers' TrainingArguments"
            faults[name] = f"unknown argument of TrainingArguments{hint}"
    return faults
