"""What a run is and what it came to: headline numbers, and the table of facts that has a column for each run."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from ftune.report.curves import SMOOTHED_FROM, percent, short, smoothed
from ftune.report.events import Event
from ftune.report.measures import duration_in_words
from ftune.report.page.data_summary import PARTS
from ftune.report.page.evaluation import Row, comparison
from ftune.report.run_record import RunRecord, dig, finite

TASKS = {
    "sft": "Supervised fine-tuning",
    "rm": "Reward model or classifier",
    "ppo": "Reinforcement learning (PPO)",
}


class Headline(NamedTuple):
    """A number that a reader should see first."""

    label: str
    value: str
    note: str = ""


class Fact(NamedTuple):
    """A row of the table of facts: one value a run, empty where it is not known."""

    label: str
    values: list[str]
    code: bool = False
    told: bool = False
    """Whether the page of a single run says it already above the table."""


def task(run: RunRecord) -> str:
    """What was done, in words."""
    return TASKS.get(run.kind, f"ftune {run.kind}" if run.kind else "A run of ftune")


def results(run: RunRecord) -> list[Headline]:
    """What the run came to, the best known number first."""
    found = [*_evaluated(run), *_held_out(run)]
    if not found and (series := run.series("step", "loss")).values:
        end = (smoothed(series.values) if len(series.values) >= SMOOTHED_FROM else series.values)[-1]
        found = [Headline("Training loss", short(end), _from(series.values, short))]
    return found


def costs(run: RunRecord) -> list[Headline]:
    """What it took."""
    found = [
        Headline("Time", duration_in_words(run.seconds) if run.seconds >= 1 else ""),
        Headline("Throughput", f"{speed:,.0f}" if (speed := throughput(run)) else "", "tokens per second, median"),
        Headline("Peak memory", f"{memory:.3g} GiB" if (memory := peak_memory(run)) else "", _device(run)),
    ]
    return [cost for cost in found if cost.value]


def _evaluated(run: RunRecord) -> list[Headline]:
    evaluation = comparison(run)
    rows = [row for row in evaluation.rows if row.telling and row.after] if evaluation else []
    return [Headline(row.metric, row.after, _gain(row)) for row in rows[:2]]


def _gain(row: Row) -> str:
    """From where, and by how much; with its interval where there is one."""
    gain = f"95 %: {row.interval}" if row.interval else row.difference
    return "; ".join(filter(None, [f"from {row.before}" if row.before else "", gain]))


def _held_out(run: RunRecord) -> list[Headline]:
    """The last look at held-out rows, beside the first. The result of PPO is the iteration that was kept."""
    wanted: list[tuple[str, str, Callable[[float], str]]] = [
        ("score", "Held-out score", short),
        ("accuracy", "Held-out accuracy", percent),
        ("loss", "Validation loss", short),
        ("token_accuracy", "Token accuracy, validation", percent),
        ("kl", "KL to the reference, nats", short),
    ]
    found = []
    for field, label, number in wanted:
        values = run.series("eval", field).values
        if not values:
            continue
        end = finite(run.result_look.get(field))
        end = values[-1] if end is None else end
        notes = [_from([values[0], end] if len(values) > 1 else [], number)]
        if field == "loss" and run.kind == "sft" and end < 20:
            notes.append(f"perplexity {short(math.exp(end))}")
        found.append(Headline(label, number(end), "; ".join(filter(None, notes))))
    return found[:3]


def _from(values: Sequence[float], number: Callable[[float], str]) -> str:
    return f"from {number(values[0])}" if len(values) > 1 else ""


def throughput(run: RunRecord) -> float | None:
    """Median tokens per second."""
    values = run.series("step", "tokens_per_s").values
    return median(values) if values else None


def peak_memory(run: RunRecord) -> float | None:
    """In GiB, of the process or GPU that needed most."""
    return max(run.series("step", "memory_gib").values, default=None)


def _device(run: RunRecord) -> str:
    return str(run.last("model").get("device") or "")


def facts(runs: Sequence[RunRecord]) -> list[Fact]:
    """The table of facts. Rows that nobody has a value for are left out."""
    above: list[tuple[str, Callable[[RunRecord], object]]] = [
        ("Task", task),
        ("State", lambda run: run.state),
        ("Time", lambda run: duration_in_words(run.seconds) if run.seconds >= 1 else None),
        ("Median tokens/s", lambda run: f"{speed:,.0f}" if (speed := throughput(run)) else None),
        ("Peak memory", lambda run: f"{memory:.3g} GiB" if (memory := peak_memory(run)) else None),
    ]
    of: list[tuple[str, Callable[[RunRecord], object]]] = [
        ("Base model", lambda run: run.last("start").get("model") or dig(run.recipe, "model", "path")),
        ("Method", lambda run: dig(run.recipe, "peft", "type")),
        ("Trained parameters", _trained),
        ("Precision and device", _precision),
        ("Rows", _rows),
        ("Steps", _steps),
        ("Tokens", _tokens),
        ("Started", _started),
    ]
    table = [Fact(label, [str(value(run) or "") for run in runs], told=True) for label, value in above]
    table += [Fact(label, [str(value(run) or "") for run in runs]) for label, value in of]
    table.append(Fact("Command", [str(run.last("start").get("command") or "") for run in runs], code=True))
    return [fact for fact in table if any(fact.values)]


def _trained(run: RunRecord) -> str:
    event = run.last("model")
    trainable, total = event.get("trainable"), finite(event.get("parameters"))
    if isinstance(trainable, dict):
        return ", ".join(f"{name} {count:,}" for name, count in trainable.items() if finite(count) is not None)
    if (count := finite(trainable)) is None:
        return ""
    return f"{count:,} of {total:,} ({count / total:.2%})" if total else f"{count:,}"


def _precision(run: RunRecord) -> str:
    event = run.last("model")
    words = [str(event[key]) for key in ("dtype", "device") if event.get(key)]
    several = finite(event.get("processes")) or 1
    if several > 1:
        words.append(f"{several:,} processes" + (f" ({event['backend']})" if event.get("backend") else ""))
    return ", ".join(words)


def _rows(run: RunRecord) -> str:
    parts = []
    for part, words in PARTS:
        counts = {"rows": dig(run.data, part, "counts", "kept"), "prompts": dig(run.data, part, "prompts")}
        parts += [f"{number:,} {words} {unit}" for unit, value in counts.items() if (number := finite(value))]
    return ", ".join(parts)


def _steps(run: RunRecord) -> str:
    last: Event = run.last("step")
    epoch = finite(last.get("epoch"))
    words = f"{run.steps:,}" if run.steps else ""
    return words + (f" ({epoch:.3g} epoch{'s' if epoch != 1 else ''})" if words and epoch else "")


def _tokens(run: RunRecord) -> str:
    """Tokens of the steps that were told of; with `log.every` above 1 each of them tells of several."""
    values = run.series("step", "tokens").values
    return f"{sum(values):,.0f}" if values else ""


def _started(run: RunRecord) -> str:
    return str(run.events[0]["time"])[:16].replace("T", " ") + " UTC" if run.events else ""
