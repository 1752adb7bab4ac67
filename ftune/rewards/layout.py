"""Samples in the layout of TRL's reward functions (trl 1.16, `GRPOTrainer`), so that the same functions serve both.

Of a conversation, the prompt is a list of messages and the completion a list of one; else both are texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ftune.data.example import Conversation
from ftune.data.template import as_turn
from ftune.rewards.base import Sample

OWN = {"prompt", "completion", "prompts", "completions", "completion_ids"}
"""Columns of these names are not passed on: they would stand for something else."""


def prompts_of(samples: Sequence[Sample]) -> list[Any]:
    """The prompt of each sample."""
    return [
        [dict(as_turn(message)) for message in sample.example.messages[:-1]]
        if isinstance(sample.example, Conversation)
        else sample.example.prompt
        for sample in samples
    ]


def completions_of(samples: Sequence[Sample]) -> list[Any]:
    """The completion of each sample."""
    return [
        [{"role": "assistant", "content": sample.completion}]
        if isinstance(sample.example, Conversation)
        else sample.completion
        for sample in samples
    ]


def columns_of(samples: Sequence[Sample]) -> Mapping[str, list[object]]:
    """Each column of the prompts' rows as a list; None where a row does not have it."""
    names = dict.fromkeys(name for sample in samples for name in sample.columns if name not in OWN)
    return {name: [sample.columns.get(name) for sample in samples] for name in names}
