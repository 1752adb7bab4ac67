"""What is told of a reward model's last look at its held-out rows: a short table, the worst pairs, the card."""

import json
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import write_atomically
from ftune.core.say import Say
from ftune.recipes.runs.training import Run
from ftune.report.events import Event, redact

if TYPE_CHECKING:
    from ftune.evals.pairs import ScoredPairs
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
    found = f"{facts['accuracy']:.1%} right (95 %: {facts['accuracy_low']:.1%} to {facts['accuracy_high']:.1%})"
    if judged.pairs is None:
        say.line(f"held-out texts: {facts['rows']:,}, {found}")
        say.line(f"  the most frequent class alone: {facts['most_frequent_class']:.1%} right")
        classes = ", ".join(f"{name} {_share(value)}" for name, value in facts["f1_by_class"].items())
        say.line(f"  F1: {facts['f1']:.3f} ({classes})")
    else:
        say.line(f"held-out pairs: {facts['pairs']:,} of {facts['prompts']:,} prompts, {found}")
        say.line(
            f"  length alone (the {facts['length_rule']} answer wins): {facts['length_accuracy']:.1%} right "
            f"(95 %: {facts['length_accuracy_low']:.1%} to {facts['length_accuracy_high']:.1%})"
        )
        for part in facts["by_length"]:
            say.line(f"  {part['where']}: {part['accuracy']:.1%} of {part['pairs']:,} pairs")
        say.line(f"  mean margin {facts['margin']:.3f}, calibration error {facts['calibration_error']:.3f}")
    say.line(f"  scores: mean {mean:.3f}, standard deviation {std:.3f}")
    if len(judged.scores) < FEW:
        say.warning(
            f"'ftune ppo' subtracts this mean and divides by this deviation, of {len(judged.scores)} scores alone; "
            "hold out more rows, or set 'normalize: false' there"
        )
    if facts["accuracy_low"] <= facts.get("length_accuracy", facts.get("most_frequent_class", 0.0)):
        what = f"the {facts['length_rule']} answer" if judged.pairs is not None else "the most frequent class"
        say.warning(f"not surely better than always taking {what}; more rows or a longer run may help")


def write_pairs(run: Run, pairs: "ScoredPairs") -> None:
    """The pairs that were told most wrongly, as texts, into a file of the run folder."""
    validation = run.inputs.validation
    if validation is None:
        raise ValueError("no held-out rows, so no pairs")
    from ftune.trainers.judged import PairDataset

    dataset = PairDataset(validation)
    order = [index for prompt in dataset.prompts for index in prompt]
    margins = pairs.better - pairs.worse
    lines = []
    for place in margins.argsort()[:WORST].tolist():
        index = order[place]
        texts = {"chosen": validation.ids(index), "rejected": dataset.rejected.ids(index)}
        lines.append(
            {
                "row": validation.origins[index],
                "margin": round(float(margins[place]), 4),
                "chosen_score": round(float(pairs.better[place]), 4),
                "rejected_score": round(float(pairs.worse[place]), 4),
                **{name: redact(str(run.inputs.tokenizer.decode(ids))) for name, ids in texts.items()},
            }
        )
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(run.folder.path / FILE, content)
    run.say.line(
        f"  {FILE}: {'all' if len(lines) == len(order) else f'the {WORST}'} pairs, the most wrongly told first"
    )


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
