"""What the runs of `sft` and `rm` share: the run folder around them, the model, the result, the report."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.backends.fsdp import Fsdp
from ftune.backends.ranks import Ranks
from ftune.core.checkpoints import write_atomically
from ftune.core.errors import CheckpointError, FtuneError, LaunchError, ModelError, StoppedError, StorageError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.inputs import Inputs, load_inputs, tell_rows, tell_stream
from ftune.recipes.runs.opening import open_run, reported
from ftune.recipes.runs.place import Place, find_place
from ftune.recipes.runs.plan_rows import rows_of_inputs
from ftune.recipes.runs.plan_run import Prediction, predict, settled
from ftune.recipes.runs.proof import Proof
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.environment import environment
from ftune.report.events import Event, EventLog, read_events
from ftune.report.rank_log import RankLog
from ftune.report.run_folder import RunFolder
from ftune.report.trackers.tracking import tracking

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
    log: RankLog
    inputs: Inputs
    place: Place
    prediction: Prediction
    """Of its memory."""
    say: Say

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""
        return self.place.ranks


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left."""

    model: "PreTrainedModel"
    outcome: "Outcome"
    beside: Callable[[Path], None] | None = None
    """Writes what else belongs to the result into its folder."""
    classes: tuple[str, ...] = ()
    """The outputs of its head; none of a language model."""


def run_training(
    recipe: "TrainingRecipe",
    options: RunOptions,
    train: Callable[[Run], Trained],
    report: Callable[[Run, "Outcome"], None],
) -> None:
    """Rows, model, training, result and report, in order, on all processes of the run.

    Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
    """
    say = Say()
    path = Path(recipe.output_dir)
    with Ranks.meet() as ranks:
        folder = open_run(recipe, path, options, say, "step", ranks)
        if folder is None:
            return
        with (
            tracking(recipe.log.trackers, folder, recipe.resolved(), say) as trackers,
            reported(folder, say),
            folder.recording() as events,
            closing(RankLog(path, ranks.rank, say)) as log,
        ):
            trackers.follow(events)
            quiet_bars()
            ranks.before_the_end(folder.fail)
            inputs = ranks.first_then_all(partial(load_inputs, recipe, say))
            recipe, place = settled(recipe, find_place(recipe, ranks, say), partial(rows_of_inputs, inputs), say)
            prediction = predict(recipe, place, partial(rows_of_inputs, inputs))
            run = Run(recipe, options, folder, events, log, inputs, place, prediction, say)
            _record(run)
            ranks.open_group(on_gpu=run.place.on_gpu)
            with _resumable(folder, options):
                with _advised(run):
                    trained = train(run)
                prediction.hold_against(folder, say)
                _raise_if_stopped(run, trained.outcome)
                tell_stream(run.inputs, say)
                result = _save(run, trained)
                if ranks.first:
                    report(run, trained.outcome)
    say.result(
        f"result: {shown(result)}\nreport: {shown(path / 'report.html')}\ncurves: {shown(path / 'curves.png')}\n"
        f"model card: {shown(path / 'README.md')}"
    )


@contextmanager
def _resumable(folder: RunFolder, options: RunOptions) -> Iterator[None]:
    """Let a failure of the disk say how the run can be finished, where a checkpoint was left."""
    try:
        yield
    except StorageError as error:
        if not any(folder.path.glob("checkpoint-*[0-9]")):
            raise
        command = resume_command(options.command)
        raise StorageError(f"{error}. Checkpoints are kept; go on from the newest with: {command}") from error


@contextmanager
def _advised(run: Run) -> Iterator[None]:
    """Say what to change where the memory is not enough before the first step or behind the last one."""
    import torch

    from ftune.trainers.training import LESS_MEMORY

    try:
        yield
    except torch.OutOfMemoryError as error:
        cause, advice = str(error).partition(". ")[0], run.prediction.out_of_memory(LESS_MEMORY)
        raise LaunchError(f"out of GPU memory outside of a step ({cause}); {advice}") from error


def _raise_if_stopped(run: Run, outcome: "Outcome") -> None:
    if outcome.stopped_by:
        raise StoppedError(
            f"stopped by {outcome.stopped_by} at step {outcome.step} of {outcome.max_steps}; everything is saved. "
            f"Go on with:\n  {resume_command(run.options.command)}"
        )


def resume_command(command: str) -> str:
    """The command that resumes the run which `command` started."""
    words = [word for word in shlex.split(command) if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--resume"])


def _record(run: Run) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    folder, inputs = run.folder, run.inputs
    tell_rows(inputs, run.say)
    _check_resumable(run)
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", inputs.described())
    events, recipe = run.events, run.recipe
    command = str(type(recipe).model_fields["type"].default)
    events.write("start", command=run.options.command, recipe=command, model=recipe.model.path)
    events.write("data", **inputs.described())
    run.prediction.record(events, run.say)


def _check_resumable(run: Run) -> None:
    """Raises CheckpointError where the run would not be the one that the checkpoint is of."""
    folder, rows = run.folder, run.place.rows_of_a_step
    if folder.found.facts.get("data", run.inputs.fingerprint) != run.inputs.fingerprint:
        raise CheckpointError(
            f"{shown(folder.path)}: the training rows are not those of the checkpoint; "
            f"bring them back, or start a new run with output_dir=..."
        )
    facts = folder.found.facts
    if (others := facts.get("world_size", run.ranks.count)) != run.ranks.count:
        run.say.line(
            f"the checkpoint is of {others} processes, here are {run.ranks.count}: rows go on in their order, random "
            "draws (dropout) begin anew"
        )
    before = facts.get("rows_of_a_step", rows)
    if before != rows:
        raise CheckpointError(
            f"{shown(folder.path)}: a step of the checkpoint has {before} rows, here it would have {rows} "
            f"({run.ranks.count} processes x {run.place.shape.micro_batch_size} rows x "
            f"{run.place.shape.gradient_accumulation_steps}), and the place in the data would be lost; "
            f"set batch.global_batch_size={before} (and a batch.micro_batch_size that divides it)"
        )


def wrapped_model(
    run: Run,
    prepare: "Callable[[PreTrainedModel], None] | None" = None,
    *,
    classes: Sequence[str] = (),
) -> "PreTrainedModel":
    """The model with the recipe's PEFT method on it.

    `classes` are the outputs of a classifier; `prepare` changes the model before the method goes on it.
    """
    import torch
    from transformers import set_seed

    from ftune.peft.base import Material, count_parameters
    from ftune.peft.decomposed import check_constants

    recipe, inputs, place = run.recipe, run.inputs, run.place
    set_seed(recipe.seed)
    weights = recipe.weights(place.dtype)
    rows = [inputs.train.ids(index) for index in range(min(MATERIAL_ROWS, len(inputs.train)))]
    splits = isinstance(place.backend, Fsdp) and run.ranks.count > 1
    model = recipe.model.load(inputs.located, weights, "cpu" if splits else place.device, classes)
    if prepare:
        prepare(model)
    try:
        model = recipe.peft.wrap(model, Material(inputs.tokenizer, inputs.located, rows))
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:  # peft's words for what it cannot do
        why = " ".join(str(error).split())
        raise ModelError(f"peft.type: {recipe.peft.type} does not go on this model: {why}") from error
    if run.folder.found.path:
        check_constants(model, run.folder.found.path)
    trainable, total = count_parameters(model)
    device = torch.cuda.get_device_name() if place.on_gpu else "CPU"
    several = f", {run.ranks.count} processes ({place.backend.name})" if run.ranks.count > 1 else ""
    run.say.line(
        f"model: {total:,} parameters, {trainable:,} of them train ({trainable / total:.2%}), "
        f"{place.dtype} on {device}{several}"
    )
    run.events.write(
        "model",
        parameters=total,
        trainable=trainable,
        dtype=place.dtype,
        device=device,
        backend=place.backend.name,
        processes=run.ranks.count,
    )
    if splits:
        _split(model, place)
    return model


def _split(model: "PreTrainedModel", place: Place) -> None:
    """Leave this process's part of the model on its device."""
    import torch

    from ftune.trainers.fsdp import split_model

    backend: Any = place.backend
    split_model(
        model,
        torch.device(place.device),
        place.dtype,
        copies=place.shape.nodes if backend.sharding == "hybrid" else 1,
        reshard_after_forward=backend.reshard_after_forward,
        offload=backend.offload == "cpu",
    )


def around(run: Run, model: "PreTrainedModel") -> "Around":
    """What the trainer gets of the run."""
    from ftune.trainers.method import Method
    from ftune.trainers.training import Around

    recipe, place = run.recipe, run.place
    args = {**recipe.training_args(run.ranks.count), **place.training_args()}
    if "deepspeed" in args:
        from ftune.trainers.zero.drive import with_buffers

        args["deepspeed"] = with_buffers(args["deepspeed"], model)
    return Around(
        args=args,
        ranks=run.ranks,
        events=run.events,
        facts={"data": run.inputs.fingerprint, "rows_of_a_step": place.rows_of_a_step},
        say=run.say,
        moved=run.log.moved,
        when_out_of_memory=run.prediction.out_of_memory,
        mfu=run.prediction.mfu,
        method=Method(
            adapter=recipe.peft.library == "peft",
            hook=recipe.peft.hook(model),
            learning_rate_factor=recipe.peft.learning_rate_factor,
        ),
        checkpoint=run.folder.found.path,
        trains_bf16=recipe.trains_bf16,
    )


def _save(run: Run, trained: Trained) -> Path:
    from ftune.models.save import save_result
    from ftune.peft.adapters import saved_frozen

    if "zero" in run.place.backend.shards():
        from ftune.trainers.zero.whole import whole as gathered
    else:
        from ftune.backends.engines.sharding import gathered
    result = run.folder.path / result_name(run.recipe)
    for config in getattr(trained.model, "peft_config", {}).values():
        config.revision = run.recipe.model.revision

    def export(folder: Path) -> None:
        run.recipe.peft.export(trained.model, folder)
        if trained.beside:
            trained.beside(folder)

    template = run.inputs.template.text if run.inputs.template else None
    first, proof = run.ranks.first, Proof.of(run, trained)
    whole_model = run.recipe.peft.library == "transformers"
    frozen = (lambda name: True) if whole_model else saved_frozen(trained.model)
    with gathered(trained.model, keep=first, frozen=frozen), run.ranks.together(FtuneError):
        if first:
            save_result(export, run.inputs.tokenizer, template, result)
            proof.check(result)
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
