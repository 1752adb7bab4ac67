"""What `ftune sft` does with its rows and its model; the rest is `ftune.recipes.runs.training`."""

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from ftune.models.dtype import torch_name
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.fp8 import check_fp8
from ftune.recipes.runs.inputs import packing_line
from ftune.recipes.runs.offload import offloads
from ftune.recipes.runs.speed import wanted_of
from ftune.recipes.runs.training import Run, Trained, around, run_training, wrapped_model, write_report
from ftune.report.events import Event

if TYPE_CHECKING:
    from ftune.data.prepared import Prepared
    from ftune.recipes.sft import SftRecipe
    from ftune.trainers.feed import PreparedDataset, StreamDataset


def run_sft(recipe: "SftRecipe", options: RunOptions) -> None:
    """Train as the recipe says. Raises StoppedError when a signal ended it early."""
    report = partial(write_report, task="supervised fine-tuning", outputs=0, results=_results)
    run_training(recipe, options, partial(_train, recipe), report)


def _train(recipe: "SftRecipe", run: Run) -> Trained:
    import torch

    from ftune.speed.offload import offloaded_inputs
    from ftune.trainers.probe import probe_packing
    from ftune.trainers.sft import train_sft
    from ftune.trainers.speed import at_speed

    inputs, say = run.inputs, run.say
    check_fp8(recipe.speed.fp8, run.place)
    offload = offloads(recipe.batch, run.place)
    model = wrapped_model(run)
    probed = [inputs.train.ids(index) for index in range(min(recipe.batch.rows_at_once, len(inputs.train)))]
    dtype = getattr(torch, torch_name(run.place.dtype))
    if recipe.batch.recomputes:  # before anything is tried: a try must not need more memory than the run
        model.gradient_checkpointing_enable({"use_reentrant": False})
    feed = _feed(recipe, run)
    wanted = wanted_of(recipe.speed, run.place.backend, run.prediction.time, on_gpu=run.place.on_gpu)
    fast = at_speed(
        model,
        probed,
        dtype,
        longest=feed.longest or 0,
        asked=recipe.model.attention,
        wanted=wanted,
        selective=recipe.batch.selects,
    )
    with offloaded_inputs(model) if offload else nullcontext(), fast as speed:
        if recipe.data.packing:
            difference = speed.difference if speed.attention else probe_packing(model, probed, dtype)
            say.line(f"  ok: packed rows do not see each other (logits differ by {difference:.1e})")
        outcome = train_sft(
            model,
            inputs.tokenizer,
            feed,
            _dataset(recipe, inputs.validation) if inputs.validation else None,
            around(run, model),
            packed=recipe.data.packing,
            speed=speed,
        )
    return Trained(model, outcome)


def _feed(recipe: "SftRecipe", run: Run) -> "PreparedDataset | StreamDataset":
    """The training rows; a stream goes on where the checkpoint left it."""
    from ftune.data.stream import Position
    from ftune.trainers.feed import StreamDataset

    inputs = run.inputs
    if inputs.stream is not None:
        return StreamDataset(inputs.stream, Position(*run.folder.found.facts.get("stream", [])))
    dataset = _dataset(recipe, inputs.train)
    if dataset.bins is not None:
        run.say.line(packing_line(inputs.train, dataset.bins, recipe.data.max_length))
    return dataset


def _dataset(recipe: "SftRecipe", prepared: "Prepared") -> "PreparedDataset":
    from ftune.data.pack import pack
    from ftune.trainers.feed import PreparedDataset

    lengths = prepared.lengths.tolist()
    return PreparedDataset(prepared, pack(lengths, recipe.data.max_length) if recipe.data.packing else None)


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
