"""Print what PPO changed on a run's held-out prompts: a table of means, and answers before and after.

Everything is read from what the run has written: the means from the `eval` events, the answers from the samples. The
policy after training is the one that the run has kept, which is the best allowed one and not always the last.

Usage: ``python scripts/before_after.py RUN [SAMPLES]``
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftune.report.events import read_events

SAMPLES = 3
FACTS = {
    "score": "score that is trained on",
    "reward/": "reward: ",
    "gold/": "gold, only logged: ",
    "kl": "KL to the start (nats an answer)",
    "stopped": "answers that end by themselves",
    "length": "tokens an answer",
    "distinct_2": "different word pairs",
}
"""Names of means, or their beginnings, and how they are called in the table."""

Event = dict[str, Any]


def before_and_after(run: Path) -> tuple[Event, Event]:
    """Return the evaluations of the first policy and of the kept one. Stops the program where there are none."""
    history = read_events(run / "events.jsonl")
    evals = {event["step"]: event for event in history if event["kind"] == "eval"}
    kept = [event["step"] for event in history if event["kind"] == "kept"]
    if len(evals) < 2 or not kept:
        sys.exit(f"{run}: no held-out scores from before and after; it takes 'data.validation' and a finished run")
    return evals[min(evals)], evals[kept[-1]]


def table(before: Event, after: Event) -> str:
    """Return the lines of the table: what is told, before, after."""
    rows = [("held-out prompts", "before", f"iteration {after['step']}")]
    for fact, called in FACTS.items():
        for name in before:
            if name == fact or (fact.endswith("/") and name.startswith(fact)):
                label = called + name.removeprefix(fact) if fact.endswith("/") else called
                rows.append((label, shown(name, before[name]), shown(name, after[name])))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{label:{width}}  {first:>8}  {second:>12}" for label, first, second in rows)


def shown(name: str, value: float | None) -> str:
    """Return a mean as it stands in the table."""
    if value is None:
        return "none"
    return f"{value:.0%}" if name in ("stopped", "distinct_2") else f"{value:.2f}"


def answers(samples: Sequence[Event], iteration: int) -> dict[str, Event]:
    """Return the first held-out sample of each prompt in an iteration."""
    found: dict[str, Event] = {}
    for sample in samples:
        if sample["when"] == "held-out" and sample["iteration"] == iteration:
            found.setdefault(sample["prompt"], sample)
    return found


def told(sample: Event) -> str:
    """Return an answer in one line with its score."""
    end = "" if sample["stopped"] else " (cut)"
    return f"{sample['score']:+.2f}  {' '.join(sample['completion'].split())}{end}"


def main(run: Path, count: int) -> None:
    """Print the table and the answers."""
    before, after = before_and_after(run)
    print(table(before, after))
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = (answers(samples, event["step"]) for event in (before, after))
    for prompt in list(first)[:count]:
        print(f"\n{prompt}\n  before: {told(first[prompt])}\n  after:  {told(last[prompt])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else SAMPLES)
