"""What a reward model or a classifier makes of judged rows: told as `ftune rm` tells it of its held-out ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError, RecipeError
from ftune.core.say import Say
from ftune.core.ticking import ticking
from ftune.data.intake import Rules
from ftune.evals.scored import Kind
from ftune.recipes.load import load_resolved
from ftune.recipes.rm import RmRecipe
from ftune.recipes.runs.eval_rows import JudgedRows
from ftune.recipes.runs.judged import judged_lines, pair_samples
from ftune.report.events import redact
from ftune.report.run_folder import read_command
from ftune.rewards.base import Surroundings

if TYPE_CHECKING:
    import torch

    from ftune.data.prepared import Part, Prepared
    from ftune.rewards.classifiers.load import LoadedClassifier
    from ftune.rewards.classifiers.rows import RowReader

OF_PAIRS = {
    "preference_accuracy": ("accuracy", Kind("higher")),
    "preference_margin": ("margin", Kind("higher", "number")),
    "calibration_error": ("calibration_error", Kind("lower")),
    "length_accuracy": ("length_accuracy", Kind("neither")),
}
"""Metrics of pairs: what they are called in the report on them, and how they are read."""

OF_CLASSES = {
    "accuracy": ("accuracy", Kind("higher")),
    "f1": ("f1", Kind("higher")),
    "loss": ("loss", Kind("lower", "number")),
    "most_frequent_class": ("most_frequent_class", Kind("neither")),
}
"""The same of texts with a class."""

MOST_CLASSES = 10
"""A table of confusions is shown up to so many classes."""


@dataclass(frozen=True, slots=True)
class ScoresReport:
    """How well scores tell good from bad, or class from class."""

    rows: int
    """Rows that were read."""
    scored: int
    """Pairs or texts that were scored."""
    missing: int
    """Rows, of a ranking pairs, that were left out: too long for the model, faulty, or without a better answer."""
    dropped: Mapping[str, int]
    """Why, and how many."""
    facts: Mapping[str, Any]
    """The whole report: of pairs that of `pair_report`, of texts that of `class_report`."""
    confusion: Mapping[str, Mapping[str, int]] | None
    """Of texts, `confusion[wanted][predicted]`."""
    samples: list[dict[str, Any]]
    """Lines of `samples.jsonl`: pairs with the most wrongly told first, or texts in their order."""

    def metrics(self) -> dict[str, dict[str, Any]]:
        """The `metrics` of `eval.json`: of one model, so with a value after alone, where known with its interval."""
        named = OF_PAIRS if self.confusion is None else OF_CLASSES
        return {name: self._metric(fact, kind) for name, (fact, kind) in named.items()}

    def details(self) -> dict[str, Any]:
        """What `eval.json` has beside them: bins of calibration, accuracy by length; F1 and confusions of classes."""
        confusion = {} if self.confusion is None else {"confusion": self.confusion}
        return {**self.facts, **confusion, "dropped": dict(self.dropped)}

    def lines(self) -> list[str]:
        """The table for the terminal."""
        left_out = [f"  left out: {count:,} {cause}" for cause, count in sorted(self.dropped.items())]
        return [*judged_lines(self.facts), *_confusions(self.confusion or {}), *left_out]

    def _metric(self, fact: str, kind: Kind) -> dict[str, Any]:
        ends = {f"after_{end}": self.facts[key] for end in ("low", "high") if (key := f"{fact}_{end}") in self.facts}
        counts = {"rows": self.scored, "missing": self.missing}
        return {"after": self.facts[fact], **ends, **counts, "kind": asdict(kind)}


def evaluate_scores(
    path: str,
    parts: Sequence[JudgedRows],
    *,
    device: str,
    micro_batch_size: int,
    say: Say,
    seed: int = 0,
) -> ScoresReport:
    """Score judged rows: preferences by a model with one score, texts with a class by a classifier.

    `path` is a run or result of `ftune rm`, whose rows are left out or cut as in its training, or any sequence
    classifier: a folder or a hub id. The rows come in parts; a layout that is None is that of the
    run, or told from the first rows. Raises ModelError
    where it cannot be loaded, DataError for rows that have no verdict of its kind.
    """
    from ftune.models.dtype import resolve_dtype
    from ftune.rewards.classifiers.load import load_classifier
    from ftune.rewards.classifiers.rows import RowReader

    trained = _training_of(path)
    dtype = resolve_dtype(trained.model.dtype if trained else "auto", on_gpu=device != "cpu")
    around = Surroundings(device=device, dtype=dtype, micro_batch_size=micro_batch_size, remark=say.line)
    loaded = load_classifier(path, around)
    if loaded.multi_label:
        raise ModelError(
            f"'{path}': a text may have several of its classes at once, and rows name one; give a classifier of one "
            "class a text"
        )
    of_pairs = len(loaded.labels) == 1
    reader = RowReader(path, loaded, around, "conversation" if of_pairs else "completion")
    prepared = _prepared(parts, loaded, trained, seed)
    judge = _judged_pairs if of_pairs else _judged_texts
    return judge(prepared, loaded, _Scoring(loaded, reader, micro_batch_size, say))


@dataclass(frozen=True, slots=True)
class _Scoring:
    """The model at work."""

    loaded: "LoadedClassifier"
    reader: "RowReader"
    micro_batch_size: int
    say: Say

    def __call__(self, rows: list[list[int]]) -> "torch.Tensor":
        """The logits of rows of token ids, fp32 on the CPU, shape (rows, classes)."""
        from ftune.rewards.classifiers.forward import in_micro_batches

        with ticking(self.say, "scores", len(rows)) as advance:

            def logits(batch: list[list[int]]) -> "torch.Tensor":
                found = self.loaded.logits(batch)
                advance(len(batch))
                return found

            return in_micro_batches(logits, self.reader.fitted(rows), self.micro_batch_size)


def _training_of(path: str) -> RmRecipe | None:
    """The recipe of the run that has made it; None of any other classifier."""
    from ftune.rewards.classifiers.find import result_folder

    run = Path(result_folder(path)).parent
    if read_command(run) != "rm":
        return None
    recipe = load_resolved("rm", run / "recipe.resolved.json")
    if not isinstance(recipe, RmRecipe):
        raise RecipeError(f"{run}: its recipe is none of 'ftune rm'")
    return recipe


def _prepared(
    parts: Sequence[JudgedRows], loaded: "LoadedClassifier", trained: RmRecipe | None, seed: int
) -> "Prepared":
    """The rows as tokens, as they were in the training of the model where that is known."""
    from ftune.data.mix import chained
    from ftune.data.prepare import prepare
    from ftune.rewards.classifiers.reading import tokenizer_of

    rules = trained.data.rules(loaded.positions) if trained else Rules()
    if len(loaded.labels) == 1:
        rules = replace(rules, answers="pairs", group=None)
    else:
        rules = replace(rules, answers="class", classes=tuple(loaded.labels), group=None)
    own = trained.data.format if trained else None

    def prepared(part: JudgedRows) -> "Part":
        return prepare(
            part.rows, part.format or own, loaded.tokenizer, None, rules, seed=seed, reader=tokenizer_of(loaded)
        )

    return chained([prepared(part) for part in parts])


def _judged_pairs(prepared: "Prepared", loaded: "LoadedClassifier", score: _Scoring) -> ScoresReport:
    from ftune.evals.pairs import pair_report
    from ftune.trainers.judged import PairDataset, scored_pairs

    data = PairDataset(prepared)
    _, pairs = scored_pairs(data, lambda rows: score(rows)[:, 0])
    samples = list(pair_samples(data, pairs, loaded.tokenizer))
    return _report(prepared, pair_report(pairs), None, samples)


def _judged_texts(prepared: "Prepared", loaded: "LoadedClassifier", score: _Scoring) -> ScoresReport:
    from ftune.evals.classes import class_report
    from ftune.evals.label_words import confusion
    from ftune.trainers.judged import ClassDataset

    data = ClassDataset(prepared)
    examples = [data[number] for number in range(len(data))]
    logits = score([example["input_ids"] for example in examples])
    wanted = [loaded.labels[example["class"]] for example in examples]
    predicted = [loaded.labels[place] for place in logits.argmax(1).tolist()]
    facts = class_report(logits.double().numpy(), prepared.scores.astype("int64"), loaded.labels)
    samples = [
        {
            "row": prepared.origins[number],
            "text": redact(str(loaded.tokenizer.decode(example["input_ids"]))),
            "label": label,
            "predicted": found,
            "probability": round(probability, 4),
        }
        for number, (example, label, found, probability) in enumerate(
            zip(examples, wanted, predicted, logits.softmax(1).amax(1).tolist(), strict=True)
        )
    ]
    return _report(prepared, facts, confusion(predicted, wanted), samples)


def _report(
    prepared: "Prepared",
    facts: dict[str, Any],
    confusion: dict[str, dict[str, int]] | None,
    samples: list[dict[str, Any]],
) -> ScoresReport:
    counts = prepared.counts
    missing = sum(counts.dropped.values())
    return ScoresReport(counts.read, len(prepared), missing, counts.dropped, facts, confusion, samples)


def _confusions(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each class, with how often it was taken for which; none where there are too many to show."""
    if not 0 < len(confusion) <= MOST_CLASSES:
        return []
    return [
        f"  {wanted}: " + ", ".join(f"{count:,} told as {found}" for found, count in row.items() if count)
        for wanted, row in confusion.items()
        if any(row.values())
    ]
