"""What an evaluation leaves: the table, `eval.json`, `samples.jsonl`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import write_atomically
from ftune.core.several import several
from ftune.data.formats.base import printable
from ftune.evals.generate import Completion
from ftune.evals.intervals import Comparison, compare, moved
from ftune.evals.scored import Kind, Scored
from ftune.recipes.runs.eval_questions import Questions
from ftune.recipes.runs.eval_systems import AFTER, BEFORE
from ftune.report.page.titles import LESS_TELLING

SHOWN = 300
"""Characters of a completion on the terminal."""

LONGEST = 1e7
"""From here on the digits of a number would not fit its column: perplexities of broken models have three hundred."""


@dataclass(slots=True)
class Examined:
    """What one model gives."""

    described: str
    completions: list[Completion] = field(default_factory=list)
    scored: dict[str, Scored] = field(default_factory=dict)
    """Values of the evaluation's rows."""
    elsewhere: dict[str, Scored] = field(default_factory=dict)
    """Values of other rows: general text, tasks of lm-evaluation-harness."""
    facts: dict[str, Any] = field(default_factory=dict)
    """More than numbers: confusions of labels."""

    @property
    def values(self) -> dict[str, Scored]:
        """All of them."""
        return {**self.scored, **self.elsewhere}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All models on all rows."""

    questions: Questions
    models: Mapping[str, Examined]
    seed: int

    def compared(self) -> dict[str, Comparison]:
        """Values of both models with intervals; {} with one model."""
        if BEFORE not in self.models:
            return {}
        return compare(self.models[BEFORE].values, self.models[AFTER].values, seed=self.seed)

    def as_json(self) -> dict[str, Any]:
        """The content of `eval.json`."""
        compared = self.compared()
        after = self.models[AFTER].values
        metrics = {name: asdict(compared[name]) if name in compared else _alone(each) for name, each in after.items()}
        for name, scored in after.items():
            if scored.signature:
                metrics[name]["signature"] = scored.signature
        facts = {name: model.facts for name, model in self.models.items() if model.facts}
        return {
            "rows": len(self.questions.rows),
            **({"left_out": self.questions.left_out} if self.questions.left_out else {}),
            "source": self.questions.source,
            "models": {name: model.described for name, model in self.models.items()},
            "metrics": metrics,
            **({"labels": facts} if facts else {}),
        }

    def samples(self) -> list[dict[str, Any]]:
        """A line of `samples.jsonl` for each row."""
        found = []
        for place, row in enumerate(self.questions.rows):
            line: dict[str, Any] = {"row": row.row.origin, "prompt": row.text, "reference": row.reference}
            written = {name: model.completions[place].text for name, model in self.models.items() if model.completions}
            scores = {
                name: {metric: scored.rows[place] for metric, scored in model.scored.items()}
                for name, model in self.models.items()
            }
            found.append({**line, "completions": written, "scores": scores})
        return found

    def table(self, samples: int) -> str:
        """Values before and after, and rows that got better and worse."""
        return "\n".join([*_table(self), *self._shown(samples)])

    def _shown(self, samples: int) -> list[str]:
        """A few rows with what the models made of them: first those that changed most."""
        lines: list[str] = []
        for place in [] if self.questions.are_texts else self._telling()[:samples]:
            row = self.questions.rows[place]
            lines += ["", f"prompt  {_line(row.text)}"]
            lines += [f"wanted  {_line(row.reference)}"] if row.reference is not None else []
            answered = [(name, model.completions) for name, model in self.models.items() if model.completions]
            lines += [f"{name:<8}{_line(done[place].text)}" for name, done in answered]
        return lines

    def _telling(self) -> list[int]:
        """All rows, those first in which the first metric of completions rose or fell, in turn."""
        every = list(range(len(self.questions.rows)))
        if BEFORE not in self.models or not self.models[AFTER].completions:
            return every
        before, after = self.models[BEFORE].scored, self.models[AFTER].scored
        for name, scored in after.items():
            if name in before and scored.kind.better != "neither":
                rose, fell = moved(before[name], scored)
                mixed = [place for pair in zip(rose, fell, strict=False) for place in pair]
                return list(dict.fromkeys([*rose[:1], *fell[:1], *mixed, *rose, *fell, *every]))
        return every


def write_results(evaluation: Evaluation, folder: Path, table: str) -> None:
    """Write the three files."""
    write_atomically(folder / "eval.json", json.dumps(evaluation.as_json(), indent=2) + "\n")
    lines = [json.dumps(sample, ensure_ascii=False) for sample in evaluation.samples()]
    write_atomically(folder / "samples.jsonl", "\n".join(lines) + "\n")
    write_atomically(folder / "table.txt", table + "\n")


def _table(evaluation: Evaluation) -> list[str]:
    compared = evaluation.compared()
    count = len(evaluation.questions.rows)
    after = evaluation.models[AFTER].values
    if not compared:
        lines = [f"{'on ' + several(count, 'row'):<26}{'value':>10}"]
        return lines + [f"{_name(name):<26}{_shown(each.value, each.kind):>10}" for name, each in after.items()]
    lines = [f"{'on ' + several(count, 'held-out row'):<26}{'before':>10}{'after':>10}{'change':>10}  95 % interval"]
    for name, each in compared.items():
        if name.endswith(LESS_TELLING):  # in the files alone
            continue
        cells = [_shown(value, each.kind) for value in (each.before, each.after)]
        change = _shown(each.difference, each.kind, signed=True)
        line = f"{_name(name):<26}{cells[0]:>10}{cells[1]:>10}{change:>10}"
        if each.low is not None and each.high is not None:
            line += f"  {_shown(each.low, each.kind, signed=True)} to {_shown(each.high, each.kind, signed=True)}"
        if each.better is not None and (each.better or each.worse):
            line += f"  ({each.better} better, {each.worse} worse)"
        if each.missing:
            line += f"  {each.missing} not scored"
        lines.append(line)
    alone = [(name, each) for name, each in after.items() if name not in compared]
    return lines + [f"{_name(name):<26}{'':>10}{_shown(each.value, each.kind):>10}" for name, each in alone]


def _alone(scored: Scored) -> dict[str, Any]:
    """A value of one model."""
    about = {"missing": scored.missing, "rows": len(scored.rows), "kind": asdict(scored.kind)}
    return {"after": scored.value, **about}


def _name(label: str) -> str:
    return label.replace("_", " ")


def _shown(value: float | None, kind: Kind, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if kind.scale == "share":
        return f"{value:{sign}.1%}"
    if kind.scale == "points":
        return f"{value:{sign}.1f}"
    return f"{value:{sign},.0f}" if 1000 <= abs(value) < LONGEST else f"{value:{sign}.3g}"


def _line(text: str | None) -> str:
    return printable(" ".join((text or "").split()))[:SHOWN]
