"""What the runs of `sft` and `rm` share: the run folder around them, the model, the result, the report."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.allocator import keep_freed_memory
from ftune.core.checkpoints import write_atomically
from ftune.core.errors import CheckpointError, LaunchError, StoppedError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.dtype import resolve_dtype
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.inputs import Inputs, load_inputs, tell_rows, tell_stream
from ftune.recipes.runs.opening import open_run
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.environment import environment
from ftune.report.events import Event, EventLog, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.recipes.training import TrainingRecipe
    from ftune.trainers.training import Around, Outcome

MATERIAL_ROWS = 256
"""Training rows that a PEFT method may look at before it starts."""

Results = Callable[[list[Event]], dict[str, float | None]]
"""The last numbers of a run's history, by their names in words."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run at work."""

    recipe: "TrainingRecipe"
    options: RunOptions
    folder: RunFolder
    events: EventLog
    inputs: Inputs
    say: Say


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left."""

    model: "PreTrainedModel"
    outcome: "Outcome"
    beside: Callable[[Path], None] | None = None
    """Writes what else belongs to the result into its folder."""


def run_training(
    recipe: "TrainingRecipe",
    options: RunOptions,
    train: Callable[[Run], Trained],
    report: Callable[[Run, "Outcome"], None],
) -> None:
    """Rows, model, training, result and report, in order. Raises StoppedError when a signal ended it early."""
    say = Say()
    path = Path(recipe.output_dir)
    folder = open_run(recipe, path, options, say, "step")
    if folder is None:
        return
    with folder.recording() as events:
        quiet_bars()
        run = Run(recipe, options, folder, events, load_inputs(recipe, say), say)
        tell_rows(run.inputs, say)
        _record(run)
        trained = train(run)
        if trained.outcome.stopped_by:
            raise StoppedError(
                f"stopped by {trained.outcome.stopped_by} at step {trained.outcome.step} of "
                f"{trained.outcome.max_steps}; everything is saved. Go on with:\n  {resume_command(options.command)}"
            )
        tell_stream(run.inputs, say)
        result = _save(run, trained)
        report(run, trained.outcome)
    say.result(
        f"result: {shown(result)}\ncurves: {shown(path / 'curves.png')}\nmodel card: {shown(path / 'README.md')}"
    )


def resume_command(command: str) -> str:
    """The command that resumes the run which `command` started."""
    words = [word for word in shlex.split(command) if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--resume"])


def _record(run: Run) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    folder, inputs = run.folder, run.inputs
    if folder.found.facts.get("data", inputs.fingerprint) != inputs.fingerprint:
        raise CheckpointError(
            f"{shown(folder.path)}: the training rows are not those of the checkpoint; "
            f"bring them back, or start a new run with output_dir=..."
        )
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", inputs.described())
    events, recipe = run.events, run.recipe
    command = str(type(recipe).model_fields["type"].default)
    events.write("start", command=run.options.command, recipe=command, model=recipe.model.path)
    events.write("data", **inputs.described())


def wrapped_model(
    run: Run,
    prepare: "Callable[[PreTrainedModel], None] | None" = None,
    *,
    classes: Sequence[str] = (),
) -> "tuple[PreTrainedModel, str]":
    """The model with the recipe's PEFT method on it, and the dtype it computes in (bf16, fp16, fp32).

    `classes` are the outputs of a classifier; `prepare` changes the model before the method goes on it.
    """
    import torch
    from transformers import set_seed

    from ftune.peft.base import Material, count_parameters

    recipe, inputs = run.recipe, run.inputs
    set_seed(recipe.seed)
    on_gpu = torch.cuda.is_available() and recipe.backend.device != "cpu"
    if recipe.backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    if not on_gpu:
        keep_freed_memory()
    weights = "fp32" if recipe.peft.trains_base else dtype
    rows = [inputs.train.ids(index) for index in range(min(MATERIAL_ROWS, len(inputs.train)))]
    model = recipe.model.load(inputs.located, weights, "cuda" if on_gpu else "cpu", classes)
    if prepare:
        prepare(model)
    model = recipe.peft.wrap(model, Material(inputs.tokenizer, inputs.located, rows))
    trainable, total = count_parameters(model)
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    run.say.line(
        f"model: {total:,} parameters, {trainable:,} of them train ({trainable / total:.2%}), {dtype} on {device}"
    )
    run.events.write("model", parameters=total, trainable=trainable, dtype=dtype, device=device)
    return model, dtype


def around(run: Run, model: "PreTrainedModel", dtype: str) -> "Around":
    """What the trainer gets of the run."""
    from ftune.trainers.reliable import Method
    from ftune.trainers.training import Around

    recipe = run.recipe
    return Around(
        args={**recipe.training_args(), "bf16": dtype == "bf16", "fp16": dtype == "fp16"},
        events=run.events,
        facts={"data": run.inputs.fingerprint},
        say=run.say,
        method=Method(
            adapter=recipe.peft.library == "peft",
            hook=recipe.peft.hook(model),
            learning_rate_factor=recipe.peft.learning_rate_factor,
        ),
        checkpoint=run.folder.found.path,
    )


def _save(run: Run, trained: Trained) -> Path:
    from ftune.models.save import save_result

    result = run.folder.path / result_name(run.recipe)
    for config in getattr(trained.model, "peft_config", {}).values():
        config.revision = run.recipe.model.revision

    def export(folder: Path) -> None:
        run.recipe.peft.export(trained.model, folder)
        if trained.beside:
            trained.beside(folder)

    template = run.inputs.template.text if run.inputs.template else None
    save_result(export, run.inputs.tokenizer, template, result)
    return result


def result_name(recipe: "TrainingRecipe") -> str:
    """The folder of the result inside of the run's."""
    return "adapter" if recipe.peft.library == "peft" else "model"


def write_report(run: Run, outcome: "Outcome", *, task: str, outputs: int, results: Results) -> None:
    """Curves and model card, drawn from the events alone; `outputs` of a head for scores, 0 for a language model."""
    recipe, folder, inputs = run.recipe, run.folder, run.inputs
    history = read_events(folder.path / "events.jsonl")
    draw_curves(history, folder.path / "curves.png", folder.path.name)
    facts = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    card = CardFacts(
        title=folder.path.name,
        base_model=recipe.model.path,
        on_hub=is_hub_id(recipe.model.path),
        task=task,
        method=recipe.peft.type,
        folder=result_name(recipe),
        chat=inputs.template is not None,
        outputs=outputs,
        own_tuner=recipe.peft.own_tuner,
        command=run.options.command,
        recipe=run.options.text,
        rows=inputs.rows_of_sources([source.path for source in recipe.data.train]),
        hub_datasets=[source.path for source in recipe.data.train if is_hub_data(source.path)],
        counts=inputs.totals(),
        results=results(history),
        hardware=facts["gpus"][0] if outcome.on_gpu else "{threads} threads of {model}".format(**facts["cpu"]),
        duration_s=outcome.seconds,
        versions=facts["versions"],
    )
    write_atomically(folder.path / "README.md", model_card(card))
