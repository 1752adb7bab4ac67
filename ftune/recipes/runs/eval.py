"""What `ftune eval` does: rows, completions and likelihoods of each model, scores, intervals, the table."""

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.checkpoints import storage_errors, write_atomically
from ftune.core.errors import DataError
from ftune.core.paths import expanded, shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.core.several import several
from ftune.core.ticking import Steps, ticking
from ftune.evals.generate import Completion
from ftune.evals.metrics.base import Answer, Metric, score_all
from ftune.evals.metrics.choose import metrics_for
from ftune.evals.scored import Kind, Scored
from ftune.models.reference import is_hub_id
from ftune.recipes.runs.eval_answers import forgetting, labels, likelihoods
from ftune.recipes.runs.eval_output import Evaluation, Examined, write_results
from ftune.recipes.runs.eval_processes import Check, others_at_work, wanted_processes
from ftune.recipes.runs.eval_questions import Questions, questions_of
from ftune.recipes.runs.eval_rows import judged_rows
from ftune.recipes.runs.eval_systems import AFTER, BEFORE, Systems, chosen, identity, scores
from ftune.recipes.runs.eval_work import PARTIAL, Work, plan_work
from ftune.report.page.write import write_report_page

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.recipes.eval import EvalRecipe
    from ftune.rewards.base import Surroundings


def run_eval(recipe: "EvalRecipe") -> None:
    """Ask each model, score, compare, and tell. Raises DataError and ModelError for what cannot be evaluated."""
    say = Say()
    quiet_bars()
    systems = chosen(recipe.model, recipe.against, recipe.device)
    folder = _folder(recipe, systems)
    if scores(systems.tuned):
        _score(recipe, systems, folder, say)
        return
    questions = questions_of(recipe, systems.tuned, say)
    if questions.are_texts:
        recipe = _of_texts(recipe)
    metrics = _metrics(recipe, questions, say) if recipe.max_new_tokens else []
    named = f"; metrics: {', '.join(metric.title() for metric in metrics)}" if metrics else ""
    say.line(f"{several(len(questions.rows), 'row')} from {questions.source}{named}")
    models = _examined(recipe, systems, questions, folder, say)
    if metrics:
        for examined in models.values():
            examined.scored = {**score_all(metrics, _answers(questions, examined.completions)), **examined.scored}
    _rewards(recipe, questions, models, say)
    _judged(recipe, questions, models, say)
    evaluation = Evaluation(questions, models, recipe.seed)
    table = evaluation.table(recipe.samples)
    write_results(evaluation, folder, table)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    _tell(table, systems, folder, say)


def _of_texts(recipe: "EvalRecipe") -> "EvalRecipe":
    """The same without completions. Raises DataError where something looks at them."""
    for key in recipe.looks_at_completions:
        raise DataError(f"{key}: looks at completions, and the rows are texts without a question; remove it")
    return recipe.model_copy(update={"max_new_tokens": 0})


def _examined(
    recipe: "EvalRecipe", systems: Systems, questions: Questions, folder: Path, say: Say
) -> dict[str, Examined]:
    """What each model gives, one after the other; completions are shared among processes."""
    completing = systems.listed() if recipe.max_new_tokens else []
    work = plan_work(
        questions,
        {system.name: identity(system, systems) for system in completing},
        max_new_tokens=recipe.max_new_tokens,
        batch_size=recipe.micro_batch_size,
        processes=wanted_processes(recipe.processes, recipe.device),
        folder=folder,
        say=say,
    )
    models: dict[str, Examined] = {}
    try:
        with others_at_work(work, systems) as check:
            for system, model in systems.opened():
                examined, started = Examined(system.described), time.monotonic()
                _likelihoods(recipe, model, questions, system.name, examined, say)
                if completing:
                    _complete(work, system.name, model, check, say)
                models[system.name] = examined
                del model
                say.line(f"{system.name}: {system.described}, {time.monotonic() - started:.0f} s")
    except KeyboardInterrupt:
        say.line("stopped; completions are kept: the same command goes on from there")
        raise
    for system in completing:
        models[system.name].completions = work.completed(system.name)
    return {name: models[name] for name in (BEFORE, AFTER) if name in models}


def _complete(work: Work, name: str, model: "PreTrainedModel", check: Check, say: Say) -> None:
    """The share of this process, which is the first."""
    part = f" (process 1 of {work.processes})" if work.processes > 1 else ""
    with ticking(say, f"{name}, completions{part}", len(work.share(name, 0))) as advance:

        def told(count: int) -> None:
            advance(count)
            check()

        work.complete(name, model, 0, told)


def _score(recipe: "EvalRecipe", systems: Systems, folder: Path, say: Say) -> None:
    """A reward model or a classifier on judged rows; its base has no head, so there is nothing to compare with."""
    import torch

    from ftune.recipes.runs.eval_scores import evaluate_scores

    if recipe.chat_template is not None:
        raise DataError(f"chat_template: '{recipe.model}' scores texts, with the template it was trained on; remove it")
    parts = judged_rows(recipe, systems.tuned, say)
    report = evaluate_scores(
        str(systems.tuned.run or systems.tuned.folder),
        parts,
        device="cuda" if recipe.device != "cpu" and torch.cuda.is_available() else "cpu",
        micro_batch_size=recipe.micro_batch_size,
        say=say,
        seed=recipe.seed,
    )
    table = "\n".join(report.lines())
    content = {"rows": report.rows, "source": parts[0][0][0].file, "models": {AFTER: systems.tuned.path}}
    write_atomically(
        folder / "eval.json",
        json.dumps({**content, "metrics": report.metrics(), "details": report.details()}, indent=2) + "\n",
    )
    lines = [json.dumps(sample, ensure_ascii=False) for sample in report.samples]
    write_atomically(folder / "samples.jsonl", "\n".join(lines) + "\n")
    write_atomically(folder / "table.txt", table + "\n")
    _tell(table, systems, folder, say)


def _tell(table: str, systems: Systems, folder: Path, say: Say) -> None:
    say.result(table)
    if systems.tuned.run is not None and folder.parent == systems.tuned.run:
        say.result(f"\nreport: {shown(write_report_page(systems.tuned.run))}")


def _folder(recipe: "EvalRecipe", systems: Systems) -> Path:
    if recipe.output is not None:
        folder = expanded(recipe.output)
    elif systems.tuned.run is not None:
        folder = systems.tuned.run / "eval"
    elif is_hub_id(recipe.model):
        way = "for a model on the hub say where results go: output=FOLDER"
        raise DataError(f"model: there is no folder '{recipe.model}' here; {way}")
    else:
        raise DataError(f"output: '{recipe.model}' is no run folder; say where results go: output=FOLDER")
    if folder.is_file():
        raise DataError(f"output: '{recipe.output}' is a file; give a folder")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _metrics(recipe: "EvalRecipe", questions: Questions, say: Say) -> list[Metric]:
    """The recipe's metrics, or those that fit. Raises DataError for one that these rows cannot feed."""
    references = questions.references
    if recipe.metrics != "auto":
        for metric in recipe.metrics:
            if problem := metric.unfit(references):
                raise DataError(f"metrics: {metric.title()}: {problem}")
        return list(recipe.metrics)
    chosen_ones = metrics_for(references)
    for metric in (metric for metric in chosen_ones if metric.absent()):
        say.line(f"left out: {metric.absent()}")
    return [metric for metric in chosen_ones if not metric.absent()]


def _likelihoods(
    recipe: "EvalRecipe", model: "PreTrainedModel", questions: Questions, name: str, examined: Examined, say: Say
) -> None:
    size = recipe.micro_batch_size
    if recipe.likelihood:
        examined.scored |= likelihoods(model, questions, name=name, batch_size=size, say=say)
        scored, facts = labels(model, questions, batch_size=size, say=say)
        examined.scored |= scored
        examined.facts |= facts
    if recipe.forgetting:
        examined.elsewhere |= forgetting(model, questions, name=name, batch_size=size, say=say)
    if recipe.harness:
        from ftune.evals.harness import harness_scores

        say.line(f"{name}: {', '.join(recipe.harness)} of lm-evaluation-harness")
        examined.elsewhere |= harness_scores(
            model, questions.tokenizer, recipe.harness, limit=recipe.harness_limit, batch_size=size
        )


def _answers(questions: Questions, done: list[Completion]) -> list[Answer]:
    return [
        Answer(completion.text, references, row.text, completion.ids)
        for row, references, completion in zip(questions.rows, questions.references, done, strict=True)
    ]


def _rewards(recipe: "EvalRecipe", questions: Questions, models: dict[str, Examined], say: Say) -> None:
    """Reward sources on the completions of each model."""
    if not recipe.rewards:
        return
    from ftune.rewards.base import Sample
    from ftune.rewards.suite import RewardSuite

    suite = RewardSuite(recipe.rewards, _surroundings(recipe, questions, say))
    for examined in models.values():
        samples = [
            Sample(
                example=row.answered(completion.text),
                completion=completion.text,
                token_ids=completion.ids,
                stopped=completion.stopped,
                columns=row.row.values,
                reference=row.reference,
                origin=row.row.origin,
            )
            for row, completion in zip(questions.rows, examined.completions, strict=True)
        ]
        for title, values in suite.score(samples).by_source.items():
            examined.scored[f"reward_{title}"] = Scored(values, Kind("higher", "number"))


def _surroundings(recipe: "EvalRecipe", questions: Questions, say: Say) -> "Surroundings":
    """What reward sources and judges may use."""
    import torch

    from ftune.rewards.base import Surroundings

    on_gpu = recipe.device != "cpu" and torch.cuda.is_available()
    return Surroundings(
        device="cuda" if on_gpu else "cpu",
        dtype="bf16" if on_gpu else "fp32",
        micro_batch_size=recipe.micro_batch_size,
        tokenizer=questions.tokenizer,
        template=questions.template.sha256 if questions.template else None,
        remark=say.line,
    )


def _judged(recipe: "EvalRecipe", questions: Questions, models: dict[str, Examined], say: Say) -> None:
    """How often the tuned model wins, by the judge: each row's points are scores of both."""
    if recipe.judge is None:
        return
    from ftune.data.example import Conversation
    from ftune.judges.base import Pair
    from ftune.judges.win_rate import scored, win_rate

    if BEFORE not in models:
        raise DataError("judge: there is nothing to compare with; name another model with 'against'")
    answered = zip(questions.rows, models[BEFORE].completions, models[AFTER].completions, strict=True)
    pairs = [
        Pair(
            prompt=row.asked if isinstance(row.asked, Conversation) else row.asked.prompt,
            first=first.text,
            second=second.text,
            reference=row.reference,
            origin=row.row.origin,
        )
        for row, first, second in answered
    ]
    ask = recipe.judge.open(_surroundings(recipe, questions, say))
    with ticking(say, "judged", len(pairs)) as advance:
        verdicts = ask(pairs, Steps(advance))
    found = win_rate(verdicts)
    asked = [verdict for pair, verdict in zip(pairs, verdicts, strict=True) if pair.first != pair.second]
    if asked and set(asked) == {None}:
        raise DataError(
            f"judge: gave no usable verdict on any of {len(asked)} pairs; look at its address and model. Completions "
            "are kept: run it again, and nothing is completed twice"
        )
    say.line(
        f"judge: {found.wins} wins, {found.ties} ties ({found.inconsistent} of them said differently in the other "
        f"order), {found.losses} losses, {found.missing} without a verdict"
    )
    models[BEFORE].scored["win_rate"] = scored(verdicts, "first")
    models[AFTER].scored["win_rate"] = scored(verdicts)
