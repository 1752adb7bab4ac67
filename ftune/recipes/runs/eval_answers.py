"""What a model gives for the rows of an evaluation: completions, which survive an interruption, and likelihoods."""

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.ticking import ticking
from ftune.evals.generate import Completion, complete
from ftune.evals.scored import Kind, Pool, Scored
from ftune.recipes.runs.eval_questions import Questions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.evals.perplexity import LabelledRow, RowLoss

PARTIAL = "partial"
"""Folder of completions that are not all done."""

LARGEST_EXPONENT = 700.0
"""Of e, in fp64."""


def completions(
    model: "PreTrainedModel",
    questions: Questions,
    *,
    name: str,
    identity: str,
    max_new_tokens: int,
    batch_size: int,
    folder: Path,
    say: Say,
) -> list[Completion]:
    """The completion of each row; those that an interrupted evaluation has left in `folder` are not made again."""
    prompts = [row.ids for row in questions.rows]
    asked = json.dumps([identity, prompts, questions.stops, max_new_tokens]).encode()
    file = folder / PARTIAL / f"{name}-{hashlib.sha256(asked).hexdigest()[:16]}.jsonl"
    done = _kept(file, len(prompts))
    if done:
        say.line(f"{name}: {len(done):,} of {len(prompts):,} completions are there already")
    missing = [place for place in range(len(prompts)) if place not in done]
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as opened, ticking(say, f"{name}, completions", len(missing)) as advance:

            def told(index: int, completion: Completion) -> None:
                done[missing[index]] = completion
                opened.write(json.dumps({"row": missing[index], **asdict(completion)}) + "\n")
                opened.flush()
                advance(1)

            complete(
                model,
                questions.tokenizer,
                [prompts[place] for place in missing],
                stop_ids=questions.stops,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                told=told,
            )
    return [done[place] for place in range(len(prompts))]


def _kept(file: Path, rows: int) -> dict[int, Completion]:
    """What was done before; a line that was cut off by a kill is made again."""
    done: dict[int, Completion] = {}
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                content: dict[str, Any] = json.loads(line)
                place = int(content.pop("row"))
                done[place] = Completion(**content)
            except (ValueError, KeyError, TypeError):
                continue
    return {place: completion for place, completion in done.items() if 0 <= place < rows}


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
