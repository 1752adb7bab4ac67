"""What a model makes of text that is there: the wanted answers, label words, general text, tasks of others."""

import math
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.ticking import ticking
from ftune.evals.scored import Kind, Pool, Scored
from ftune.recipes.runs.eval_questions import Questions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.evals.perplexity import LabelledRow, RowLoss

LARGEST_EXPONENT = 700.0
"""Of e, in fp64."""


def likelihoods(
    model: "PreTrainedModel", questions: Questions, *, name: str, batch_size: int, say: Say
) -> dict[str, Scored]:
    """Loss, perplexity and token accuracy of the wanted answers; {} without answers."""
    from ftune.evals.perplexity import row_losses

    labelled = [row.labelled for row in questions.rows if row.labelled is not None]
    if not labelled:
        return {}
    with ticking(say, f"{name}, likelihoods", len(labelled)) as advance:
        losses = iter(row_losses(model, labelled, batch_size=batch_size, told=advance))
    by_row = [next(losses) if row.labelled is not None else None for row in questions.rows]
    right = [(row.right, row.tokens) if row else (0.0, 0.0) for row in by_row]
    accuracy = Scored(
        [row.right / row.tokens if row and row.tokens else None for row in by_row], Kind("higher"), Pool(right, _ratio)
    )
    return {**_losses(by_row), "token_accuracy": accuracy}


def forgetting(
    model: "PreTrainedModel", questions: Questions, *, name: str, batch_size: int, say: Say
) -> dict[str, Scored]:
    """The perplexity of general text."""
    from ftune.evals.general_text import general_rows
    from ftune.evals.perplexity import row_losses

    rows: list[LabelledRow] = [(ids, ids) for ids in general_rows(questions.tokenizer)]
    with ticking(say, f"{name}, general text", len(rows)) as advance:
        losses: list[RowLoss | None] = list(row_losses(model, rows, batch_size=batch_size, told=advance))
    return {"general_text_perplexity": _losses(losses)["perplexity"]}


def labels(
    model: "PreTrainedModel", questions: Questions, *, batch_size: int, say: Say
) -> tuple[dict[str, Scored], dict[str, Any]]:
    """Whether the likeliest label word is the right one, with F1 and confusions of the labels.

    Both are empty where rows have no label words, or these cannot be compared.
    """
    from ftune.data.tasks.word_ids import incomparable
    from ftune.evals.label_words import confusion, f1_by_label, score_label_words

    rows = [(row, row.word_ids) for row in questions.rows if row.word_ids is not None]
    if not rows or len(rows) < len(questions.rows):
        return {}, {}
    faults = dict.fromkeys(fault for row, ids in rows for fault in incomparable(row.words, ids.words))
    if faults:
        say.line("\n".join(["labels are not compared by likelihood:", *faults]))
        return {}, {}
    prompts, words = [ids.prompt for _, ids in rows], [ids.words for _, ids in rows]
    found = score_label_words(model, prompts, words, batch_size=batch_size).predictions
    predicted = [row.words[place] for (row, _), place in zip(rows, found, strict=True)]
    wanted = [row.reference or "" for row, _ in rows]
    right = [float(word == label) for word, label in zip(predicted, wanted, strict=True)]
    facts = {"f1": f1_by_label(predicted, wanted), "confusion": confusion(predicted, wanted)}
    return {"label_accuracy": Scored(right)}, facts


def _losses(rows: "list[RowLoss | None]") -> dict[str, Scored]:
    sums = [(row.loss, row.tokens) if row else (0.0, 0.0) for row in rows]
    means = [row.loss / row.tokens if row and row.tokens else None for row in rows]
    if not any(mean is not None for mean in means):
        raise DataError("no token of the answers is counted; give rows with answers")
    powers = [None if mean is None else math.exp(min(mean, LARGEST_EXPONENT)) for mean in means]
    return {
        "loss": Scored(means, Kind("lower", "number"), Pool(sums, _ratio)),
        "perplexity": Scored(powers, Kind("lower", "number"), Pool(sums, _power)),
    }


def _ratio(sums: Any) -> Any:
    return sums[..., 0] / sums[..., 1]


def _power(sums: Any) -> Any:
    import numpy as np

    return np.exp(np.minimum(_ratio(sums), LARGEST_EXPONENT))
