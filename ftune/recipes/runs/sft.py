"""What `ftune sft` does, in order: rows, model, training, result. Each part is made by the layers below."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.allocator import keep_freed_memory
from ftune.core.checkpoints import write_atomically
from ftune.core.errors import CheckpointError, LaunchError, StoppedError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.dtype import resolve_dtype, torch_name
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.inputs import Inputs, load_inputs, packing_line, tell_rows, tell_stream
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.environment import environment
from ftune.report.events import Event, EventLog, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.data.prepared import Prepared
    from ftune.recipes.sft import SftRecipe
    from ftune.trainers.feed import PreparedDataset, StreamDataset
    from ftune.trainers.sft import Outcome

MATERIAL_ROWS = 256
"""Training rows that a PEFT method may look at before it starts."""


def run_sft(recipe: "SftRecipe", options: RunOptions) -> None:
    """Train as the recipe says. Raises StoppedError when a signal ended it early."""
    say = Say()
    path = Path(recipe.output_dir)
    folder = RunFolder.open(path, recipe.resolved(), options.text, resume=options.resume, overwrite=options.overwrite)
    if options.resume:
        say.line(f"resumed from step {folder.found.step}")
    if folder.finished:
        say.result(f"{shown(path)} is finished, nothing to do; --overwrite starts anew")
        return
    for damaged, problems in folder.found.damaged:
        say.warning(f"damaged checkpoint kept as {shown(damaged)}: {'; '.join(problems)}")
    with folder.recording() as events:
        quiet_bars()
        inputs = load_inputs(recipe, say)
        tell_rows(inputs, say)
        _record(recipe, folder, events, inputs, options)
        model, outcome = _train(recipe, folder, events, inputs, say)
        if outcome.stopped_by:
            raise StoppedError(
                f"stopped by {outcome.stopped_by} at step {outcome.step} of {outcome.max_steps}; everything is saved. "
                f"Go on with:\n  {resume_command(options.command)}"
            )
        tell_stream(inputs, say)
        result = _save(recipe, folder, inputs, model)
        _report(recipe, folder, inputs, options, outcome)
    say.result(
        f"result: {shown(result)}\ncurves: {shown(path / 'curves.png')}\nmodel card: {shown(path / 'README.md')}"
    )


def resume_command(command: str) -> str:
    """The command that resumes the run which `command` started."""
    words = [word for word in shlex.split(command) if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--resume"])


def _record(recipe: "SftRecipe", folder: RunFolder, events: EventLog, inputs: Inputs, options: RunOptions) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    if folder.found.facts.get("data", inputs.fingerprint) != inputs.fingerprint:
        raise CheckpointError(
            f"{shown(folder.path)}: the training rows are not those of the checkpoint; "
            f"bring them back, or start a new run with output_dir=..."
        )
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", inputs.described())
    events.write("start", command=options.command, recipe=recipe.type, model=recipe.model.path)
    events.write("data", **inputs.described())


def _train(
    recipe: "SftRecipe", folder: RunFolder, events: EventLog, inputs: Inputs, say: Say
) -> "tuple[PreTrainedModel, Outcome]":
    import torch
    from transformers import set_seed

    from ftune.peft.base import Material, count_parameters
    from ftune.trainers.probe import probe_packing
    from ftune.trainers.reliable import Method
    from ftune.trainers.sft import train_sft

    set_seed(recipe.seed)
    on_gpu = torch.cuda.is_available() and recipe.backend.device != "cpu"
    if recipe.backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    if not on_gpu:
        keep_freed_memory()
    weights = "fp32" if recipe.peft.trains_base else dtype
    rows = [inputs.train.ids(index) for index in range(min(MATERIAL_ROWS, len(inputs.train)))]
    material = Material(inputs.tokenizer, inputs.located, rows)
    model = recipe.peft.wrap(recipe.model.load(inputs.located, weights, "cuda" if on_gpu else "cpu"), material)
    trainable, total = count_parameters(model)
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    say.line(f"model: {total:,} parameters, {trainable:,} of them train ({trainable / total:.2%}), {dtype} on {device}")
    events.write("model", parameters=total, trainable=trainable, dtype=dtype, device=device)
    if recipe.data.packing:
        probed = [inputs.train.ids(index) for index in range(min(2, len(inputs.train)))]
        difference = probe_packing(model, probed, getattr(torch, torch_name(dtype)))
        say.line(f"  ok: packed rows do not see each other (logits differ by {difference:.1e})")
    outcome = train_sft(
        model,
        inputs.tokenizer,
        _feed(recipe, folder, inputs, say),
        _dataset(recipe, inputs.validation) if inputs.validation else None,
        args={**recipe.training_args(), "bf16": dtype == "bf16", "fp16": dtype == "fp16"},
        packed=recipe.data.packing,
        events=events,
        facts={"data": inputs.fingerprint},
        say=say,
        method=Method(
            adapter=recipe.peft.library == "peft",
            hook=recipe.peft.hook(model),
            learning_rate_factor=recipe.peft.learning_rate_factor,
        ),
        checkpoint=folder.found.path,
    )
    return model, outcome


def _feed(recipe: "SftRecipe", folder: RunFolder, inputs: Inputs, say: Say) -> "PreparedDataset | StreamDataset":
    """The training rows; a stream goes on where the checkpoint left it."""
    from ftune.data.stream import Position
    from ftune.trainers.feed import StreamDataset

    if inputs.stream is not None:
        return StreamDataset(inputs.stream, Position(*folder.found.facts.get("stream", [])))
    dataset = _dataset(recipe, inputs.train)
    if dataset.bins is not None:
        say.line(packing_line(inputs.train, dataset.bins, recipe.data.max_length))
    return dataset


def _dataset(recipe: "SftRecipe", prepared: "Prepared") -> "PreparedDataset":
    from ftune.data.pack import pack
    from ftune.trainers.feed import PreparedDataset

    lengths = prepared.lengths.tolist()
    return PreparedDataset(prepared, pack(lengths, recipe.data.max_length) if recipe.data.packing else None)


def _save(recipe: "SftRecipe", folder: RunFolder, inputs: Inputs, model: "PreTrainedModel") -> Path:
    from ftune.models.save import save_result

    result = folder.path / _result_name(recipe)
    for config in getattr(model, "peft_config", {}).values():
        config.revision = recipe.model.revision
    template = inputs.template.text if inputs.template else None
    save_result(partial(recipe.peft.export, model), inputs.tokenizer, template, result)
    return result


def _result_name(recipe: "SftRecipe") -> str:
    return "adapter" if recipe.peft.library == "peft" else "model"


def _report(recipe: "SftRecipe", folder: RunFolder, inputs: Inputs, options: RunOptions, outcome: "Outcome") -> None:
    """Curves and model card, drawn from the events alone."""
    history = read_events(folder.path / "events.jsonl")
    draw_curves(history, folder.path / "curves.png", folder.path.name)
    facts = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    card = CardFacts(
        title=folder.path.name,
        base_model=recipe.model.path,
        on_hub=is_hub_id(recipe.model.path),
        task="supervised fine-tuning",
        method=recipe.peft.type,
        folder=_result_name(recipe),
        chat=inputs.template is not None,
        own_tuner=recipe.peft.own_tuner,
        command=options.command,
        recipe=options.text,
        rows=inputs.rows_of_sources([source.path for source in recipe.data.train]),
        hub_datasets=[source.path for source in recipe.data.train if is_hub_data(source.path)],
        counts=inputs.totals(),
        results=_results(history),
        hardware=facts["gpus"][0] if outcome.on_gpu else "{threads} threads of {model}".format(**facts["cpu"]),
        duration_s=outcome.seconds,
        versions=facts["versions"],
    )
    write_atomically(folder.path / "README.md", model_card(card))


def _results(history: list[Event]) -> dict[str, float | None]:
    """The last losses by their names in words."""
    results: dict[str, float | None] = {}
    for event in history:
        if event["kind"] == "step":
            results["training loss"] = event["loss"]
        elif event["kind"] == "eval":
            results |= {
                f"validation {key.replace('_', ' ')}": event[key] for key in ("loss", "perplexity", "token_accuracy")
            }
    return results
