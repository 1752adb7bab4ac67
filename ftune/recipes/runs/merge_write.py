"""The files of a merged model: weights as a stream, configuration, tokenizer, card."""

import hashlib
from collections.abc import Callable, Collection
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError
from ftune.core.ticking import gigabytes, ticking
from ftune.merge.checkpoint import open_checkpoint
from ftune.merge.folder import copy_beside, write_config
from ftune.merge.sources import ADAPTER_WEIGHTS, told_of
from ftune.merge.tensors import ShardWriter
from ftune.models.dtype import torch_name
from ftune.models.load import locate_model
from ftune.models.reference import is_hub_id
from ftune.recipes.merge import bytes_in
from ftune.recipes.runs.merge_plan import Plan, trained_dtype
from ftune.report.environment import environment
from ftune.report.merge_card import MergeFacts, merge_card

if TYPE_CHECKING:
    from ftune.merge.engines.skeleton import Skeleton
    from ftune.merge.engines.stream import Job, Read, Source, Written
    from ftune.recipes.runs.merge_rows import Rows

OWN_KEYS = {"architectures", "dtype", "torch_dtype", "transformers_version"}
"""Of a configuration that transformers fills in when it builds a model."""


def write_merged(plan: Plan, staging: Path, rows: "Rows | None") -> None:
    """The model's files, but for its card."""
    from ftune.merge.engines.skeleton import skeleton
    from ftune.merge.engines.stream import write_model

    recipe, say, base = plan.recipe, plan.say, plan.base
    build = partial(skeleton, classes=plan.classes, trust_remote_code=recipe.trust_remote_code)
    job = _job(plan, lambda: build(deepcopy(base.config)))
    paths = ", ".join(source.path for source in plan.sources)
    doing = f"copying {paths}" if plan.only and plan.whole else f"merging {paths} into {plan.named}"
    say.line(f"{doing} ({len(base.tensors):,} tensors, {base.size / 1e9:.2f} GB)")
    writer = ShardWriter(staging, bytes_in(recipe.max_shard_size), len(base.tensors) + 2 * len(job.model.names))
    with ticking(say, "merging", base.size, gigabytes) as advance:
        written = write_model(job, writer, advance)
        writer.finish()
    copy_beside(base, plan.adapter, staging)
    write_config(base, _config_changes(plan, job, written, rows.tokenizer.pad_token_id if rows else None), staging)
    _tell(plan, written)


def write_card(plan: Plan, staging: Path, proof: dict[str, str]) -> None:
    """The model card, from the facts of the merge."""
    names = ("ftune", "torch", "transformers", "peft")
    versions = {name: found for name, found in environment()["versions"].items() if name in names}
    combine: Any = plan.recipe.combine
    facts = MergeFacts(
        title=plan.output.parent.name if plan.output.name == "merged" else plan.output.name,
        base_model=plan.named,
        on_hub=is_hub_id(plan.named),
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


def _job(plan: Plan, build: "Callable[[], Skeleton]") -> "Job":
    from ftune.merge.engines.adapter import AdapterSource
    from ftune.merge.engines.layout import Layout
    from ftune.merge.engines.requantised import quantised_names
    from ftune.merge.engines.stream import Job, read_base
    from ftune.merge.engines.whole import ModelSource

    recipe, model = plan.recipe, build()
    layout = Layout(plan.base, model)
    read = _read(plan, model, read_base(layout, model.ties))
    sources: list[Source] = []
    for source in plan.sources:
        if source.adapter:
            sources.append(AdapterSource(build(), Path(source.folder), read))
        elif not (plan.only and plan.whole):  # one model alone is the base, and is copied
            with told_of(source.path):
                checkpoint = open_checkpoint(locate_model(source.folder), trust_remote_code=recipe.trust_remote_code)
            sources.append(ModelSource(checkpoint, model, plan.base, layout))
    combine: Any = recipe.combine
    weights = [source.weight for source in recipe.sources]
    return Job(
        base=plan.base,
        layout=layout,
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


def _config_changes(plan: Plan, job: "Job", written: "Written", pad_id: int | None) -> dict[str, Any]:
    """What the configuration of the result has other than that of the base."""
    changes: dict[str, Any] = {}
    for config in [job.model.model.config, *(source.config for source in job.sources if source.config is not None)]:
        changes |= _changed(plan.before, config.to_dict(), config.sub_configs)
    if written.untied:
        changes["tie_word_embeddings"] = False
    if plan.recipe.dtype != "keep":
        changes["dtype"] = torch_name(plan.recipe.dtype)
    if plan.classes:
        changes["architectures"] = [type(job.model.model).__name__]
        changes["pad_token_id"] = pad_id  # a head reads its score before the padding
    return changes


def _changed(before: dict[str, Any], after: dict[str, Any], parts: Collection[str] = ()) -> dict[str, Any]:
    """What has changed of a configuration; of its `parts` (`text_config`, ...) only what has changed there."""
    changes = {key: value for key, value in after.items() if before.get(key) != value and key not in OWN_KEYS}
    for part in set(parts) & changes.keys():
        if isinstance(before.get(part), dict):
            changes[part] = _changed(before[part], changes[part])
    return {key: value for key, value in changes.items() if value or key not in parts}


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


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
