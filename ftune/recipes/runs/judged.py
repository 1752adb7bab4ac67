"""What is told of a reward model's last look at its held-out rows: a short table, the worst pairs, the card."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import write_atomically
from ftune.core.say import Say
from ftune.core.several import several
from ftune.recipes.runs.training import Run
from ftune.report.events import Event, redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.evals.pairs import ScoredPairs
    from ftune.trainers.judged import PairDataset
    from ftune.trainers.rm import Judged

FILE = "pairs.jsonl"
WORST = 100
"""So many pairs are written down."""

FEW = 30
"""Scores whose mean and standard deviation say little, if there are fewer."""

CARD = {
    "accuracy": "accuracy",
    "accuracy_low": "accuracy, 95 % from",
    "accuracy_high": "accuracy, 95 % to",
    "length_accuracy": "accuracy of length alone",
    "length_accuracy_low": "accuracy of length alone, 95 % from",
    "length_accuracy_high": "accuracy of length alone, 95 % to",
    "most_frequent_class": "accuracy of the most frequent class",
    "f1": "F1, mean of the classes",
    "margin": "mean margin",
    "calibration_error": "expected calibration error",
    "loss": "loss",
}
"""Numbers of an evaluation that the model card has, and what they are called there."""


def tell_judged(judged: "Judged", say: Say) -> None:
    """A short table of what the held-out rows say."""
    facts, mean, std = judged.facts, judged.scores.mean(), judged.scores.std()
    for line in judged_lines(facts):
        say.line(line)
    say.line(f"  scores: mean {mean:.3f}, standard deviation {std:.3f}")
    if len(judged.scores) < FEW:
        say.warning(
            f"'ftune ppo' subtracts this mean and divides by this deviation, of {len(judged.scores)} scores alone; "
            "hold out more rows, or set 'normalize: false' there"
        )
    if facts.get("most_frequent_class") == 1:
        say.warning("all held-out rows are of one class, so they do not tell whether it knows classes apart")
    elif facts["accuracy_low"] <= facts.get("length_accuracy", facts.get("most_frequent_class", 0.0)):
        what = f"the {facts['length_rule']} answer" if judged.pairs is not None else "the most frequent class"
        say.warning(f"not surely better than always taking {what}; more rows or a longer run may help")


def judged_lines(facts: Mapping[str, Any]) -> list[str]:
    """The report on held-out pairs or texts in words; `facts` are those of `pair_report` or `class_report`."""
    found = f"{facts['accuracy']:.1%} right (95 %: {facts['accuracy_low']:.1%} to {facts['accuracy_high']:.1%})"
    if "pairs" not in facts:
        classes = ", ".join(f"{name} {_share(value)}" for name, value in facts["f1_by_class"].items())
        return [
            f"held-out texts: {facts['rows']:,}, {found}",
            f"  the most frequent class alone: {facts['most_frequent_class']:.1%} right",
            f"  F1: {facts['f1']:.3f} ({classes})",
        ]
    return [
        f"held-out pairs: {facts['pairs']:,} of {several(facts['prompts'], 'prompt')}, {found}",
        f"  length alone (the {facts['length_rule']} answer wins): {facts['length_accuracy']:.1%} right "
        f"(95 %: {facts['length_accuracy_low']:.1%} to {facts['length_accuracy_high']:.1%})",
        *(
            f"  {part['where']}: {part['accuracy']:.1%} of {several(part['pairs'], 'pair')}"
            for part in facts["by_length"]
        ),
        f"  mean margin {facts['margin']:.3f}, calibration error {facts['calibration_error']:.3f}",
    ]


def write_pairs(run: Run, pairs: "ScoredPairs") -> None:
    """The pairs that were told most wrongly, as texts, into a file of the run folder."""
    if run.inputs.validation is None:
        raise ValueError("no held-out rows, so no pairs")
    from ftune.trainers.judged import PairDataset

    lines = list(islice(pair_samples(PairDataset(run.inputs.validation), pairs, run.inputs.tokenizer), WORST))
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(run.folder.path / FILE, content)
    run.say.line(
        f"  {FILE}: {'all' if len(lines) == len(pairs.better) else f'the {WORST}'} pairs, the most wrongly told first"
    )


def pair_samples(
    data: "PairDataset", pairs: "ScoredPairs", tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[dict[str, Any]]:
    """The pairs with their scores and texts, the most wrongly told first; `pairs` are in the order of the prompts."""
    order = [index for prompt in data.prompts for index in prompt]
    margins = pairs.better - pairs.worse
    for place in margins.argsort().tolist():
        index = order[place]
        texts = {"chosen": data.prepared.ids(index), "rejected": data.rejected.ids(index)}
        yield {
            "row": data.prepared.origins[index],
            "margin": round(float(margins[place]), 4),
            "chosen_score": round(float(pairs.better[place]), 4),
            "rejected_score": round(float(pairs.worse[place]), 4),
            **{name: redact(str(tokenizer.decode(ids))) for name, ids in texts.items()},
        }


def results_of(history: list[Event]) -> dict[str, float | None]:
    """The last numbers by their names in words."""
    results: dict[str, Any] = {}
    for event in history:
        if event["kind"] == "step":
            results["training loss"] = event["loss"]
        elif event["kind"] == "eval":
            results |= {f"validation {name}": event[key] for key, name in CARD.items() if key in event}
    return results


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
