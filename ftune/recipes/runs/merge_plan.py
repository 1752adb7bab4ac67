"""What `ftune merge` is asked for: which sources, on which base, and where the result goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftune.core.errors import ModelError
from ftune.core.paths import expanded
from ftune.core.say import Say
from ftune.merge.checkpoint import Checkpoint, open_checkpoint
from ftune.merge.sources import ADAPTER_WEIGHTS, Found, find_source, told_of
from ftune.merge.tensors import bytes_of, stored_in
from ftune.models.load import locate_model
from ftune.models.reference import is_hub_id, looks_like_folder
from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe
from ftune.report.events import read_events

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is merged into what."""

    recipe: MergeRecipe
    command: str
    overwrite: bool
    """Whether what an earlier merge has written is replaced."""
    sources: list[Found]
    named: str
    """The base as a person named it."""
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
    return Plan(
        recipe, options.command, options.overwrite, sources, base, located, checkpoint, before, whole, output, say
    )


def trained_dtype(source: Found) -> str:
    """In which dtype a run computed, as its history says it."""
    events = read_events(source.run / "events.jsonl") if source.run else []
    return next((str(event["dtype"]) for event in events if event["kind"] == "model"), "fp32")


def inputs_of(plan: Plan) -> list[Path]:
    """The folders that are read."""
    return [plan.base.folder, *(Path(source.folder) for source in plan.sources if Path(source.folder).is_dir())]


def bytes_to_write(plan: Plan) -> int:
    """Of all weights of the result."""
    if plan.recipe.save == "adapter":
        return sum(Path(source.folder, ADAPTER_WEIGHTS).stat().st_size for source in plan.sources)
    width = {"keep": None, "fp32": 4}.get(plan.recipe.dtype, 2)
    return sum(one.size // bytes_of(one.dtype) * (width or bytes_of(one.dtype)) for one in plan.base.tensors.values())


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
    return f"{model}: no such folder here" if is_hub_id(model) and not looks_like_folder(model) else model


def _output(recipe: MergeRecipe, sources: Sequence[Found]) -> Path:
    run = sources[0].run
    if recipe.output is not None:
        output = expanded(recipe.output)
    elif run is not None:
        output = run / "merged"
    elif is_hub_id(path := sources[0].path):
        way = "for a model on the hub say where the merged one goes with --output FOLDER"
        raise ModelError(f"sources: there is no folder '{path}' here; {way}")
    else:
        raise ModelError(f"output: '{path}' is no run folder; say where the model goes with --output FOLDER")
    return output.resolve() if output.is_symlink() else output  # a link may lead to a larger disk


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
