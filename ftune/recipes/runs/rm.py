"""What `ftune rm` does with its rows and its model; the rest is `ftune.recipes.runs.training`."""

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError
from ftune.core.several import several
from ftune.models.dtype import torch_name
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.judged import results_of, tell_judged, write_pairs
from ftune.recipes.runs.offload import offloads
from ftune.recipes.runs.speed import wanted_of
from ftune.recipes.runs.training import Run, Trained, around, run_training, wrapped_model, write_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.models.reward_facts import RewardFacts
    from ftune.recipes.rm import RmRecipe
    from ftune.trainers.judged import Laid, Padding
    from ftune.trainers.rm import Judged
    from ftune.trainers.speed import Speed
    from ftune.trainers.training import Outcome

SCALAR = ("reward",)
"""The name of a scalar head's one output."""


def run_rm(recipe: "RmRecipe", options: RunOptions) -> None:
    """Train as the recipe says. Raises StoppedError when a signal ended it early."""
    task = "reward modelling" if recipe.head.type == "scalar" else "text classification"
    report = partial(write_report, task=task, results=results_of)
    run_training(
        recipe,
        options,
        partial(_train, recipe),
        lambda run, outcome: report(run, outcome, outputs=len(_names(recipe, run))),
    )


def _train(recipe: "RmRecipe", run: Run) -> Trained:
    import torch

    from ftune.speed.offload import offloaded_inputs
    from ftune.trainers.judged import EndToEnd
    from ftune.trainers.scoring import probe_scores
    from ftune.trainers.speed import at_speed
    from ftune.trainers.speed_tasks import SCORES

    head = recipe.head
    if head.type == "classifier":
        _tell_classes(run, head.positive_class)
    elif recipe.margin:
        tell_margins(run)
    offload = offloads(recipe.batch, run.place)
    padding = _padding(run)
    model = wrapped_model(run, partial(_prepare, run), classes=_names(recipe, run))
    padding = _masked(model, padding)
    probed = [run.inputs.train.ids(index) for index in range(min(64, len(run.inputs.train)))]
    dtype = getattr(torch, torch_name(run.place.dtype))
    difference = probe_scores(model, probed, padding, dtype)
    run.say.line(f"  ok: a row has the same score alone and padded in a batch (scores differ by {difference:.1e})")
    if recipe.batch.recomputes:  # before anything is tried: a try must not need more memory than the run
        model.gradient_checkpointing_enable({"use_reentrant": False})
    longest = _longest(run)
    fast = at_speed(
        model,
        probed[: recipe.batch.rows_at_once],
        dtype,
        longest=longest,
        asked=recipe.model.attention,
        wanted=wanted_of(recipe.speed, run.place.backend, run.prediction.time, on_gpu=run.place.on_gpu),
        selective=recipe.batch.selects,
        task=SCORES,
    )
    with offloaded_inputs(model) if offload else nullcontext(), fast as speed:
        laid = EndToEnd(longest, rounded=run.place.on_gpu) if speed.attention else padding
        if head.type == "scalar":
            outcome, judged = _on_pairs(recipe, run, model, laid, speed)
        else:
            outcome, judged = _on_classes(recipe, head.positive_class, run, model, laid, speed)
    if judged is not None:
        tell_judged(judged, run.say)
        if judged.pairs is not None and run.inputs.validation is not None and run.ranks.first:
            write_pairs(run, judged.pairs)
    facts = _facts(recipe, run, judged)
    return Trained(model, outcome, facts.write, _names(recipe, run))


def _longest(run: Run) -> int:
    """Tokens of the longest row that is trained or looked at."""
    prepared = run.inputs.parts().values()
    sides = [side for one in prepared for side in ((one, one.rejected()) if one.is_preference else (one,))]
    return max(int(side.lengths.max(initial=1)) for side in sides)


def _names(recipe: "RmRecipe", run: Run) -> tuple[str, ...]:
    """The names of the head's outputs."""
    return run.inputs.classes or SCALAR


def _padding(run: Run) -> "Padding":
    """Padding with a token that ends no row, which the tokenizer has from now on."""
    from ftune.data.padding import pad_with_unused
    from ftune.trainers.judged import Padding

    parts = {id(part): part for prepared in run.inputs.parts().values() for part in prepared.parts}
    tables = [table for part in parts.values() for table in part.tables()]
    check = pad_with_unused(run.inputs.tokenizer, tables, run.inputs.vocab_size)
    run.say.line(f"  ok: {check.name} ({check.detail})")
    return Padding(int(run.inputs.tokenizer.pad_token_id))


def _tell_classes(run: Run, positive: str) -> None:
    """How many rows each class has. Raises DataError where it is all or nothing for the positive one."""
    from ftune.trainers.judged import ClassDataset

    names = run.inputs.classes
    counts = dict(zip(names, ClassDataset(run.inputs.train).counts(len(names)), strict=True))
    run.say.line("classes: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if counts[positive] in (0, len(run.inputs.train)):
        raise DataError(
            f"head.positive_class: {'no' if not counts[positive] else 'every'} training row is '{positive}', so there "
            "is nothing to tell apart; add rows of the other kind"
        )


def tell_margins(run: Run) -> None:
    """How many pairs have a margin. Raises DataError where none has."""
    margins = run.inputs.train.scores
    known = margins[margins == margins]  # without NaN
    if not len(known):
        raise DataError(
            "margin: no training pair has one; give rows a column 'margin' or the ratings of both answers, or set "
            "'margin: false'"
        )
    run.say.line(f"margins: {len(known):,} of {several(len(margins), 'pair')} have one, {known.mean():.3g} on average")
    if below := int((known < 0).sum()):
        run.say.warning(
            f"{several(below, 'pair')} with a margin below 0: by it, the rejected answer is the better one, and such "
            "a pair teaches next to nothing"
        )


def _masked(model: "PreTrainedModel", padding: "Padding") -> "Padding":
    """With an attention mask where virtual tokens need one."""
    from dataclasses import replace

    config: Any = getattr(model, "active_peft_config", None)
    return replace(padding, masked=config is not None and config.is_prompt_learning)


def _prepare(run: Run, model: "PreTrainedModel") -> None:
    """A fresh head (or the one that the checkpoint has), no dropout of the model's own, the padding token."""
    from ftune.models.dropout import without_dropout
    from ftune.models.load import load_config
    from ftune.trainers.head import put_head

    section = run.recipe.model
    config = load_config(run.inputs.located, revision=section.revision, trust_remote_code=section.trust_remote_code)
    scores_already = (config.architectures or [""])[0].endswith("ForSequenceClassification")
    put_head(model, new=not scores_already, seed=run.recipe.seed)
    if scores_already:
        run.say.line("head: the one that the model has")
    without_dropout(model)  # chosen and rejected would differ by it
    model.config.get_text_config().pad_token_id = run.inputs.tokenizer.pad_token_id


def _on_pairs(
    recipe: "RmRecipe", run: Run, model: "PreTrainedModel", laid: "Laid", speed: "Speed"
) -> "tuple[Outcome, Judged | None]":
    from ftune.trainers.judged import PairDataset
    from ftune.trainers.rm import train_on_pairs

    inputs = run.inputs
    rows = PairDataset(inputs.train)
    first = [rows[index]["lengths"] for index in range(min(len(rows), 1000))]
    answers, tokens = sum(map(len, first)) / len(first), sum(map(sum, first)) / len(first)
    run.say.line(
        f"pairs: {len(inputs.train):,} of {several(len(rows), 'prompt')}; "
        f"{answers:.2g} answers and {tokens:,.0f} tokens each"
    )
    return train_on_pairs(
        model,
        inputs.tokenizer,
        rows,
        PairDataset(inputs.validation) if inputs.validation else None,
        around(run, model),
        laid=laid,
        label_smoothing=recipe.label_smoothing,
        center=recipe.center,
        margin=recipe.margin,
        speed=speed,
    )


def _on_classes(
    recipe: "RmRecipe", positive: str, run: Run, model: "PreTrainedModel", laid: "Laid", speed: "Speed"
) -> "tuple[Outcome, Judged | None]":
    from ftune.trainers.judged import ClassDataset
    from ftune.trainers.rm import train_on_classes

    inputs, names = run.inputs, _names(recipe, run)
    return train_on_classes(
        model,
        inputs.tokenizer,
        ClassDataset(inputs.train),
        ClassDataset(inputs.validation) if inputs.validation else None,
        around(run, model),
        laid=laid,
        label_smoothing=recipe.label_smoothing,
        names=names,
        positive=names.index(positive),
        speed=speed,
    )


def _facts(recipe: "RmRecipe", run: Run, judged: "Judged | None") -> "RewardFacts":
    from ftune.models.fingerprint import base_fingerprint
    from ftune.models.reward_facts import RewardFacts

    scores = judged.scores if judged is not None else None
    classifier = recipe.head.type == "classifier"
    return RewardFacts(
        kind=recipe.head.type,
        base_model=run.inputs.located,
        base_fingerprint=base_fingerprint(run.inputs.located),
        template=run.inputs.template.sha256 if run.inputs.template and not classifier else None,
        labels=list(_names(recipe, run)) if classifier else [],
        positive_class=recipe.head.positive_class if recipe.head.type == "classifier" else None,
        mean=float(scores.mean()) if scores is not None else None,
        std=float(scores.std()) if scores is not None else None,
        rows=len(scores) if scores is not None else 0,
        quantized=recipe.model.quantization.type != "none",
    )
