"""What `ftune eval` does: prompts, completions of base and tuned model, scores."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import write_atomically
from ftune.core.errors import DataError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.example import Conversation, Message, PromptCompletion
from ftune.evals.text_match import metrics_for
from ftune.models.dtype import resolve_dtype, torch_name
from ftune.recipes.load import load_resolved
from ftune.recipes.sft import SftRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.data.formats.base import RowFormat
    from ftune.data.row import Row
    from ftune.data.tasks.word_ids import WordIds
    from ftune.recipes.data_section import Source
    from ftune.recipes.eval import EvalRecipe

Completions = dict[str, list[str]]
"""Completions of the rows by `before` and `after`."""

Choices = list[tuple[tuple[str, ...], "WordIds"]]
"""The label words of each row, as text and as tokens."""


def run_eval(recipe: "EvalRecipe") -> None:
    """Complete the rows with the base and with the tuned model, score both, and tell."""
    from ftune.data.source import strict

    say = Say()
    quiet_bars()
    folder = Path(recipe.run)
    trained = load_resolved("sft", folder / "recipe.resolved.json")
    if not isinstance(trained, SftRecipe):
        raise DataError(f"run: {shown(folder)} holds no run of 'ftune sft'")
    source = _source(recipe, trained)
    rows = list(strict(source.read(recipe.seed)))
    format = source.format or trained.data.format
    tokenizer, prompts, references, stop_ids, choices = _prompts(trained, folder, rows, format)
    metrics = metrics_for(references)
    labels: dict[str, dict[str, float]] = {}
    choices = _comparable(choices, say)
    say.line(f"{len(rows):,} rows from {rows[0].file}; metrics: {', '.join(metrics)}")

    def complete(model: "PreTrainedModel", name: str) -> list[str]:
        from ftune.evals.generate import generate

        started = time.monotonic()
        with say.console.status(f"{name}: 0/{len(prompts)}") as status:
            done = generate(
                model,
                tokenizer,
                [ids for ids, _ in prompts],
                stop_ids=stop_ids,
                max_new_tokens=recipe.max_new_tokens,
                batch_size=recipe.micro_batch_size,
                progress=lambda count: status.update(f"{name}: {count}/{len(prompts)}"),
            )
        say.line(f"{name}: {len(prompts)} completions in {time.monotonic() - started:.0f} s")
        if choices:
            for metric, value in _label_scores(model, choices, references, recipe.micro_batch_size).items():
                labels.setdefault(metric, {})[name] = value
        return done

    completions = _both(trained, folder, complete)
    scores = {
        name: {
            when: [score(text, wanted) for text, wanted in zip(texts, references, strict=True)]
            for when, texts in completions.items()
        }
        for name, score in metrics.items()
    }
    means = {name: {when: sum(each) / len(each) for when, each in both.items()} for name, both in scores.items()}
    means |= labels
    _write(folder, rows, prompts, references, completions, means)
    table = _table(recipe, prompts, references, completions, means)
    write_atomically(folder / "eval" / "table.txt", table + "\n")
    say.result(table)


def _source(recipe: "EvalRecipe", trained: SftRecipe) -> "Source":
    source = recipe.rows or (trained.data.validation.source if trained.data.validation else None)
    if source is None:
        raise DataError("rows: the run has no validation source of its own; give the rows to evaluate: rows=FILE")
    return source


def _prompts(
    trained: SftRecipe, folder: Path, rows: "list[Row]", format: "RowFormat | None"
) -> "tuple[PreTrainedTokenizerBase, list[tuple[list[int], str]], list[str], list[int], Choices]":
    """The tokenizer, each row's prompt as ids and as text, the answers wanted, and the ids that end an answer.

    Last, the label words of the rows: of every row, or of none.
    """
    from ftune.data.encode import understood
    from ftune.data.tasks.word_ids import word_ids
    from ftune.data.template import choose_template
    from ftune.data.tokenize import RowTokenizer
    from ftune.models.load import load_tokenizer

    tokenizer = load_tokenizer(str(_result(trained, folder).resolve()))
    template = choose_template(tokenizer) if tokenizer.chat_template else None
    layout, _ = understood(rows, format, tolerant=False, seed=trained.seed)
    encoder = RowTokenizer(tokenizer, template, mask="last")
    prompts: list[tuple[list[int], str]] = []
    references: list[str] = []
    stop_ids: dict[int, None] = {}
    choices: Choices = []
    for row in rows:
        example = layout.read(row.values)
        if isinstance(example, Conversation) and example.messages[-1].role == "assistant":
            text, answer = _last_question(example.messages), example.messages[-1].content
        elif isinstance(example, PromptCompletion):
            text, answer = example.prompt, example.completion
        else:
            raise DataError(f"{row.origin}: no answer to compare with; rows need a completion or a last assistant turn")
        tokens = encoder.encode(example)
        start = next(place for place, label in enumerate(tokens.labels) if label != -100)
        prompts.append((tokens.input_ids[:start], text))
        references.append(answer)
        stop_ids[next(label for label in reversed(tokens.labels) if label != -100)] = None
        if words := layout.format.choices(layout.tidied(row.values)):
            choices.append((words, word_ids(encoder, example, words)))
    return tokenizer, prompts, references, list(stop_ids), choices if len(choices) == len(rows) else []


def _comparable(choices: Choices, say: Say) -> Choices:
    """The label words, or none where the likelihoods of some cannot be compared, which is said."""
    from ftune.data.tasks.word_ids import incomparable

    faults = dict.fromkeys(fault for words, each in choices for fault in incomparable(words, each.words))
    if faults:
        say.line("\n".join(["labels are not compared by likelihood:", *faults]))
    return [] if faults else choices


def _label_scores(
    model: "PreTrainedModel", choices: Choices, references: list[str], batch_size: int
) -> dict[str, float]:
    """How often the likeliest label word is the right one, and F1 as the mean over the labels."""
    from ftune.evals.label_words import accuracy, f1_by_label, score_label_words

    prompts, ids = [each.prompt for _, each in choices], [each.words for _, each in choices]
    found = score_label_words(model, prompts, ids, batch_size=batch_size).predictions
    predicted = [words[place] for (words, _), place in zip(choices, found, strict=True)]
    by_label = f1_by_label(predicted, references)
    return {"label accuracy": accuracy(predicted, references), "label F1, mean": sum(by_label.values()) / len(by_label)}


def _last_question(messages: tuple[Message, ...]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _result(trained: SftRecipe, folder: Path) -> Path:
    return folder / ("adapter" if trained.peft.library == "peft" else "model")


def _both(trained: SftRecipe, folder: Path, complete: Callable[["PreTrainedModel", str], list[str]]) -> Completions:
    """Completions before and after. Folding an adapter into its base is faster, and the same up to rounding."""
    import torch

    from ftune.models.load import load_model, locate_model

    on_gpu = torch.cuda.is_available() and trained.backend.device != "cpu"
    dtype, device = resolve_dtype(trained.model.dtype, on_gpu=on_gpu), "cuda" if on_gpu else "cpu"
    located = locate_model(trained.model.path)
    base = trained.model.load(located, dtype, device)
    before = complete(base, "before")
    if trained.peft.library == "peft":
        from ftune.peft.adapters import load_adapter

        tuned = load_adapter(base, _result(trained, folder))
        if trained.model.quantization.type == "none" and "merge" not in trained.peft.limits():
            tuned.merge_adapter()
    else:
        del base
        tuned = load_model(str(_result(trained, folder).resolve()), dtype=torch_name(dtype), device=device)
    return {"before": before, "after": complete(tuned, "after")}


def _write(
    folder: Path,
    rows: "list[Row]",
    prompts: list[tuple[list[int], str]],
    references: list[str],
    completions: Completions,
    means: dict[str, dict[str, float]],
) -> None:
    (folder / "eval").mkdir(exist_ok=True)
    facts: dict[str, Any] = {"rows": len(rows), "file": rows[0].file, "metrics": means}
    write_atomically(folder / "eval" / "eval.json", json.dumps(facts, indent=2) + "\n")
    samples = [
        {"row": row.origin, "prompt": prompt, "reference": wanted, "before": before, "after": after}
        for row, (_, prompt), wanted, before, after in zip(
            rows, prompts, references, completions["before"], completions["after"], strict=True
        )
    ]
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    write_atomically(folder / "eval" / "samples.jsonl", "\n".join(lines) + "\n")


def _table(
    recipe: "EvalRecipe",
    prompts: list[tuple[list[int], str]],
    references: list[str],
    completions: Completions,
    means: dict[str, dict[str, float]],
) -> str:
    """The means before and after, then a few rows with what both models made of them."""
    lines = [f"{'on ' + str(len(prompts)) + ' held-out rows':<24}{'before':>10}{'after':>10}"]
    lines += [f"{name:<24}{mean['before']:>10.1%}{mean['after']:>10.1%}" for name, mean in means.items()]
    for index in range(min(recipe.samples, len(prompts))):
        lines += ["", f"prompt  {prompts[index][1]}", f"wanted  {references[index]}"]
        lines += [f"{when:<8}{' '.join(texts[index].split())[:300]}" for when, texts in completions.items()]
    return "\n".join(lines)
