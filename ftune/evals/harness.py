"""Tasks of EleutherAI's lm-evaluation-harness, asked and scored by that package itself (written with 0.4.13)."""

import logging
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftune.core.errors import DataError
from ftune.evals.scored import Better, Kind, Scored

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROUNDING = 1e-9
"""A task's value is the mean over its rows where the two differ by no more than this share."""


def absent() -> str:
    """What has to be installed first; empty where nothing has to."""
    return "" if find_spec("lm_eval") else "needs the package 'lm-eval': pip install 'ftune[harness]'"


def harness_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    *,
    limit: int | None,
    batch_size: int,
) -> dict[str, Scored]:
    """Each metric of each task, as `TASK METRIC`, with the prompts of the task and without a chat template.

    A task is a name that the package knows, a group of tasks too, or the path of a task's YAML file; `limit` takes its
    first rows only. A value that is not the mean over its rows (a corpus BLEU, a group that weighs tasks alike) stands
    alone, without an interval. Raises DataError for tasks that are not known or whose rows cannot be got.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager()
    for task in tasks:
        if task not in manager.all_tasks and not Path(task).is_file():
            raise DataError(
                f"harness: '{task}' is neither a task of lm-evaluation-harness ('lm-eval ls tasks' lists them) nor the "
                "YAML file of one"
            )
    try:
        manager.load(list(tasks))
    except Exception as error:  # whatever their downloads and their own code raise
        raise DataError(f"harness: the tasks cannot be loaded: {type(error).__name__}: {error}") from error
    asked = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found: Any = simple_evaluate(asked, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0)
    return _scored(found)


def _scored(found: Mapping[str, Any]) -> dict[str, Scored]:
    """The values in what `simple_evaluate` gives; of a group its own ones, and not those of each task in it."""
    parts: dict[str, list[str]] = {name: tasks for name, tasks in found["group_subtasks"].items() if tasks}
    inner = {name for tasks in parts.values() for name in tasks}
    scored = {}
    for task in (task for task in found["results"] if task not in inner):
        for key, value in found["results"][task].items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            leaves = _leaves(task, parts)
            rows = [row for leaf in leaves for row in found["samples"][leaf] if row["filter"] == filtered]
            higher = found["higher_is_better"].get(leaves[0], {}).get(metric)
            better: Better = "neither" if higher is None else "higher" if higher else "lower"
            name = f"{task} {metric}" if filtered == "none" else f"{task} {metric} ({filtered})"
            scored[name] = _value(float(value), [row.get(metric) for row in rows], better)
    return scored


def _leaves(task: str, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks in a group, or a task itself."""
    return [leaf for part in parts[task] for leaf in _leaves(part, parts)] if task in parts else [task]


def _value(value: float, rows: Sequence[object], better: Better) -> Scored:
    """With its rows where it is their mean."""
    numbers = [float(row) for row in rows if isinstance(row, int | float)]
    scale: Literal["share", "number"] = "share" if all(0 <= each <= 1 for each in [value, *numbers]) else "number"
    mean = math.fsum(numbers) / max(len(numbers), 1)
    if 0 < len(numbers) == len(rows) and math.isclose(mean, value, rel_tol=ROUNDING, abs_tol=ROUNDING):
        return Scored(numbers, Kind(better, scale))
    return Scored([], Kind(better, scale), whole=value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
