"""What `ftune merge` does: find what is merged, write the model tensor by tensor, prove it, export it."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import stage_folder, writing
from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.merge.checkpoint import Checkpoint, open_checkpoint
from ftune.merge.folder import OF_ADAPTER, add_stop, check_output, copy_beside, put_in_place, write_config
from ftune.merge.sources import Found, find_source, told_of
from ftune.merge.tensors import ShardWriter, bytes_of, stored_in
from ftune.models.dtype import torch_name
from ftune.models.load import locate_model
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe, bytes_in
from ftune.report.environment import environment
from ftune.report.events import read_events
from ftune.report.merge_card import MergeFacts, merge_card

if TYPE_CHECKING:
    from ftune.merge.engines.skeleton import Skeleton
    from ftune.merge.engines.stream import Job, Read, Source, Written
    from ftune.recipes.runs.merge_rows import Rows

ADAPTER_WEIGHTS = "adapter_model.safetensors"

TELL_S = 10.0
"""Seconds between two lines of progress."""

OWN_KEYS = {"architectures", "dtype", "torch_dtype", "transformers_version"}
"""Of a configuration that transformers fills in when it builds a model."""

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is merged into what."""

    recipe: MergeRecipe
    command: str
    overwrite: bool
    """Whether what an earlier merge has written is replaced."""
    sources: list[Found]
    located: str
    """What `from_pretrained` opens as the base."""
    base: Checkpoint
    before: dict[str, Any]
    """The configuration that lies beside it."""
    whole: bool
    """Whether the weights of whole models are combined, and not updates of a base."""
    output: Path
    say: Say

    @property
    def only(self) -> Found | None:
        """The source that becomes the result as it is; None where several are combined."""
        (first, *others), weight = self.sources, self.recipe.sources[0].weight
        combine: Any = self.recipe.combine
        as_it_is = not others and weight == 1 and combine.type in ("linear", "cat")
        return first if as_it_is else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The outputs of a classifier."""
        return self.sources[0].classes

    @property
    def adapter(self) -> Path | None:
        """The folder of an adapter whose tokenizer and template the result gets."""
        return next((Path(source.folder) for source in self.sources if source.adapter), None)


def run_merge(recipe: MergeRecipe, options: RunOptions) -> None:
    """Merge, prove and export. Raises ModelError for what cannot be merged, StorageError for a disk that refuses."""
    from ftune.recipes.runs.merge_exports import check_exports, export
    from ftune.recipes.runs.merge_proof import check_room, prove
    from ftune.recipes.runs.merge_rows import rows_of

    say, started = Say(), time.monotonic()
    quiet_bars()
    plan = planned(recipe, options, say)
    check_exports(plan)
    check_output(plan.output, _inputs(plan), _bytes_to_write(plan), overwrite=plan.overwrite)
    if recipe.save == "adapter":
        _join(plan)
        return
    check_room(plan)
    rows = rows_of(plan.sources, plan.located, say) if _wants_rows(plan) else None
    staging = stage_folder(plan.output)
    with writing(staging):
        _write(plan, staging, rows)
        if rows and plan.sources[0].run and not plan.classes and rows.stops and add_stop(rows.stops[0], staging):
            say.line(f"  generation ends with {rows.tokenizer.decode(rows.stops[:1])!r} too, as in training")
        say.line(f"  written in {time.monotonic() - started:.0f} s")
        _write_card(plan, staging, prove(plan, staging, rows))
    put_in_place(staging, plan.output)
    say.result(f"model: {shown(plan.output)}")
    export(plan, rows)


def planned(recipe: MergeRecipe, options: RunOptions, say: Say) -> Plan:
    """Find sources and base. Raises ModelError for what does not go together."""
    sources = [find_source(source.path) for source in recipe.sources]
    for source in sources:
        if source.unmergeable:
            raise ModelError(f"{source.path}: cannot be merged: {source.unmergeable}")
    whole = recipe.base is None and not any(source.adapter for source in sources)
    weights = [source.weight for source in recipe.sources]
    combine: Any = recipe.combine
    if problem := combine.unfit(weights, common_base=not whole):
        raise ModelError(f"combine: {problem}")
    if recipe.save == "adapter" and (models := [source.path for source in sources if not source.adapter]):
        raise ModelError(f"save: 'adapter' joins adapters, and '{models[0]}' is a whole model; use 'save: model'")
    if len({source.classes for source in sources}) > 1:
        raise ModelError("sources: classifiers of different classes, or a classifier and a language model")
    base, revision = _base(recipe, sources)
    with told_of(_who_names_it(recipe, sources)):
        located = locate_model(base)
        checkpoint = open_checkpoint(located, revision=revision, trust_remote_code=recipe.trust_remote_code)
    before = checkpoint.config.to_dict()
    _fit_vocabulary(checkpoint.config, sources)
    output = _output(recipe, sources)
    return Plan(recipe, options.command, options.overwrite, sources, located, checkpoint, before, whole, output, say)


def _wants_rows(plan: Plan) -> bool:
    return bool(plan.recipe.verify or plan.recipe.quantize or plan.sources[0].run or plan.classes)


def _base(recipe: MergeRecipe, sources: Sequence[Found]) -> tuple[str, str | None]:
    """The model that is merged into, and its revision."""
    if recipe.base is not None:
        return recipe.base, recipe.revision
    adapters = [source for source in sources if source.adapter]
    if not adapters:
        return sources[0].folder, recipe.revision
    bases = {(source.base, source.revision) for source in adapters}
    if len(bases) > 1:
        names = " and ".join(f"'{base}'" for base, _ in sorted(bases, key=str))
        raise ModelError(f"sources: were trained on {names}; adapters of one base can be merged. Name it with --base")
    base, revision = bases.pop()
    if not base:
        raise ModelError(f"{adapters[0].path}: does not say what it was trained on; name it with --base MODEL")
    return base, recipe.revision or revision


def _who_names_it(recipe: MergeRecipe, sources: Sequence[Found]) -> str:
    """Where the base comes from, for messages."""
    if recipe.base is not None:
        return "base"
    adapter = next((source.path for source in sources if source.adapter), None)
    if adapter is not None:
        return f"{adapter}: its base (--base names another)"
    model = sources[0].path
    return f"{model}: no such folder here" if is_hub_id(model) else model


def _output(recipe: MergeRecipe, sources: Sequence[Found]) -> Path:
    if recipe.output is not None:
        output = Path(recipe.output).expanduser()
        return output.resolve() if output.is_symlink() else output  # a link may lead to a larger disk
    if (run := sources[0].run) is not None:
        return run / "merged"
    raise ModelError(f"output: '{sources[0].path}' is no run folder; say where the model goes with --output FOLDER")


def _inputs(plan: Plan) -> list[Path]:
    """The folders that are read."""
    return [plan.base.folder, *(Path(source.folder) for source in plan.sources if Path(source.folder).is_dir())]


def _bytes_to_write(plan: Plan) -> int:
    if plan.recipe.save == "adapter":
        return sum(Path(source.folder, ADAPTER_WEIGHTS).stat().st_size for source in plan.sources)
    width = {"keep": None, "fp32": 4}.get(plan.recipe.dtype, 2)
    return sum(one.size // bytes_of(one.dtype) * (width or bytes_of(one.dtype)) for one in plan.base.tensors.values())


def _fit_vocabulary(config: Any, sources: Sequence[Found]) -> None:
    """Adapters that bring embeddings along say how many there are."""
    rows = {
        one.shape[0]
        for source in sources
        if source.adapter
        for one in stored_in(Path(source.folder) / ADAPTER_WEIGHTS)
        if one.name.endswith(EMBEDDINGS) and len(one.shape) == 2
    }
    if len(rows) > 1:
        raise ModelError(f"sources: bring vocabularies of {' and '.join(map(str, sorted(rows)))} tokens along")
    if rows:
        config.get_text_config().vocab_size = rows.pop()


def _write(plan: Plan, staging: Path, rows: "Rows | None") -> None:
    """The model's files, but for its card."""
    from ftune.merge.engines.skeleton import skeleton
    from ftune.merge.engines.stream import write_model

    recipe, say, base = plan.recipe, plan.say, plan.base
    build = partial(skeleton, classes=plan.classes, trust_remote_code=recipe.trust_remote_code)
    job = _job(plan, lambda: build(deepcopy(base.config)))
    paths = ", ".join(source.path for source in plan.sources)
    doing = f"copying {paths}" if plan.only and plan.whole else f"merging {paths} into {plan.located}"
    say.line(f"{doing} ({len(base.tensors):,} tensors, {base.size / 1e9:.2f} GB)")
    writer = ShardWriter(staging, bytes_in(recipe.max_shard_size), len(base.tensors) + 2 * len(job.model.names))
    with _progress(say, base.size) as advance:
        written = write_model(job, writer, advance)
        writer.finish()
    copy_beside(base, plan.adapter, staging)
    write_config(base, _config_changes(plan, job, written, rows.tokenizer.pad_token_id if rows else None), staging)
    _tell(plan, written)


def _job(plan: Plan, build: "Callable[[], Skeleton]") -> "Job":
    from ftune.merge.engines.adapter import AdapterSource
    from ftune.merge.engines.requantised import quantised_names
    from ftune.merge.engines.stream import Job, read_base
    from ftune.merge.engines.whole import ModelSource

    recipe, model = plan.recipe, build()
    read = _read(plan, model, read_base(plan.base, model))
    sources: list[Source] = []
    for source in plan.sources:
        if source.adapter:
            sources.append(AdapterSource(build(), Path(source.folder), read))
        elif not (plan.only and plan.whole):  # one model alone is the base, and is copied
            with told_of(source.path):
                checkpoint = open_checkpoint(locate_model(source.folder), trust_remote_code=recipe.trust_remote_code)
            sources.append(ModelSource(checkpoint, model, plan.base))
    combine: Any = recipe.combine
    weights = [source.weight for source in recipe.sources]
    return Job(
        base=plan.base,
        model=model,
        sources=sources,
        combine=None if plan.only else lambda tensors, draw: combine.combine(tensors, weights, draw),
        whole=plan.whole,
        dtype="" if recipe.dtype == "keep" else torch_name(recipe.dtype),
        seed=recipe.seed,
        read=read,
        replaced=quantised_names(model) if recipe.base_weights == "quantized" else frozenset(),
    )


def _read(plan: Plan, model: "Skeleton", read: "Read") -> "Read":
    """How the base is read: as it is, or as the adapter saw it in training."""
    quantized = [source for source in plan.sources if source.quantization]
    if plan.recipe.base_weights == "full":
        return read
    if len(quantized) != 1 or len(plan.sources) != 1:
        raise ModelError("base_weights: 'quantized' is for the adapter of one run with a quantised base (QLoRA)")
    from ftune.merge.engines.requantised import requantised

    source = quantized[0]
    kind, double = source.quantization["type"], bool(source.quantization.get("double_quant"))
    return requantised(read, model, kind, double=double, dtype=torch_name(trained_dtype(source)))


def trained_dtype(source: Found) -> str:
    """In which dtype a run computed, as its history says it."""
    events = read_events(source.run / "events.jsonl") if source.run else []
    return next((str(event["dtype"]) for event in events if event["kind"] == "model"), "fp32")


def _config_changes(plan: Plan, job: "Job", written: "Written", pad_id: int | None) -> dict[str, Any]:
    """What the configuration of the result has other than that of the base."""
    changes: dict[str, Any] = {}
    for config in [job.model.model.config, *(source.config for source in job.sources if source.config is not None)]:
        after = config.to_dict()
        changes |= {key: value for key, value in after.items() if plan.before.get(key) != value and key not in OWN_KEYS}
    if written.untied:
        changes["tie_word_embeddings"] = False
    if plan.recipe.dtype != "keep":
        changes["dtype"] = torch_name(plan.recipe.dtype)
    if plan.classes:
        changes["architectures"] = [type(job.model.model).__name__]
        changes["pad_token_id"] = pad_id  # a head reads its score before the padding
    return changes


def _tell(plan: Plan, written: "Written") -> None:
    say = plan.say
    how = "copied as they are" if plan.recipe.dtype == "keep" else f"copied as {plan.recipe.dtype}"
    say.line(f"  {written.changed:,} tensors changed, {written.copied:,} {how}, all finite")
    if written.untied:
        say.line("  the output layer and the embeddings have become different: they are no longer tied")
    if new := written.made:
        more = f" and {len(new) - 3:,} more" if len(new) > 3 else ""
        say.line(f"  new, since the base does not have it: {', '.join(new[:3])}{more}")
    if written.dropped:
        say.line(f"  left out, since a classifier does not have it: {', '.join(written.dropped)}")


def _write_card(plan: Plan, staging: Path, proof: dict[str, str]) -> None:
    """The model card, from the facts of the merge."""
    names = ("ftune", "torch", "transformers", "peft")
    versions = {name: found for name, found in environment()["versions"].items() if name in names}
    combine: Any = plan.recipe.combine
    facts = MergeFacts(
        title=plan.output.parent.name if plan.output.name == "merged" else plan.output.name,
        base_model=plan.recipe.base or plan.sources[0].base or plan.located,
        on_hub=is_hub_id(plan.recipe.base or plan.sources[0].base or plan.located),
        sources=[
            (source.path, wanted.weight, _sha256(Path(source.folder) / ADAPTER_WEIGHTS) if source.adapter else "")
            for source, wanted in zip(plan.sources, plan.recipe.sources, strict=True)
        ],
        method=combine.type,
        command=plan.command,
        chat=(staging / "chat_template.jinja").is_file(),
        classifier=bool(plan.classes),
        proof=proof,
        versions=versions,
    )
    (staging / "README.md").write_text(merge_card(facts), encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _progress(say: Say, total: int) -> Iterator[Callable[[int], None]]:
    """Bytes that are done, with speed and time left: a bar on a terminal, a line every ten seconds elsewhere."""
    if say.console.is_terminal:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=say.console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, started = 0, time.monotonic()
    told = started

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if (now := time.monotonic()) - told >= TELL_S and done < total:
            speed = done / (now - started)
            left = (total - done) / speed
            say.line(f"  {done / 1e9:.1f} of {total / 1e9:.1f} GB, {speed / 1e6:,.0f} MB/s, {left:.0f} s left")
            told = now

    yield advance


def _join(plan: Plan) -> None:
    """Several LoRA adapters made one."""
    from ftune.merge.engines.joined import join_adapters

    combine: Any = plan.recipe.combine
    staging = stage_folder(plan.output)
    with writing(staging):
        join_adapters(
            [Path(source.folder) for source in plan.sources],
            [source.weight for source in plan.recipe.sources],
            staging,
            getattr(combine, "rank", None),
        )
        for file in sorted(Path(plan.sources[0].folder).iterdir()):
            if file.is_file() and file.name not in OF_ADAPTER:
                shutil.copyfile(file, staging / file.name)
    put_in_place(staging, plan.output)
    plan.say.result(f"adapter: {shown(plan.output)}")
