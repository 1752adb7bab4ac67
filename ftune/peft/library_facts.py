"""What is known of peft's own methods beside their keys: what they do not go with, and how fast they learn."""

from ftune.peft.base import Feature

NEED_TASKS: dict[str, str] = {
    "poly": "poly wants a task's number with every row, which rows do not have; use 'lora', or 'xlora' to mix adapters",
    "multitask_prompt_tuning": (
        "multitask_prompt_tuning wants a task's number with every row, which rows do not have; use a prompt for each task"
    ),
}
"""Methods of peft that cannot train on rows without tasks: why, and what to do instead."""

LIMITS: dict[str, dict[Feature, str]] = {}

LEARNING_RATES: dict[str, float] = {}
