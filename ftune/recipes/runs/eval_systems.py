"""The models of an evaluation, one after the other: what is tuned, and what it is compared with."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import ModelError
from ftune.merge.sources import Found, find_source, told_of
from ftune.models.load import locate_model
from ftune.models.reference import is_hub_id
from ftune.recipes.runs.found_model import base_of, load_section, section_of
from ftune.report.run_folder import read_command

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.recipes.model_section import Model

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True)
class System:
    """A model that answers."""

    name: str
    """`before` or `after`."""
    described: str
    """What it is, for people."""
    source: Found | None
    """Where it comes from; None for the base of what is evaluated."""


@dataclass(frozen=True, slots=True)
class Systems:
    """What is compared."""

    tuned: Found
    other: Found | None
    """Another model than the base."""
    with_base: bool
    device: str

    def listed(self) -> list[System]:
        """In the order in which they are loaded."""
        found = [System(AFTER, self.tuned.path, self.tuned)]
        if self.other is not None:
            return [System(BEFORE, self.other.path, self.other), *found]
        if self.with_base:
            base = self.tuned.base if self.tuned.adapter else _base_path(self.tuned)
            return [System(BEFORE, base, None), *found]
        return found

    def opened(self) -> "Iterator[tuple[System, PreTrainedModel]]":
        """Each with its model; the one before is let go of first, but for a base that its adapter is put on."""
        *others, tuned = self.listed()
        base: PreTrainedModel | None = None
        for system in others:
            base = self._other()
            yield system, base
            if self.other is not None or not self.tuned.adapter:
                base = None
                gc.collect()
        yield tuned, _tuned(self.tuned, base, self.device)

    def _other(self) -> "PreTrainedModel":
        if self.other is not None:
            return _tuned(self.other, None, self.device)
        section = section_of(self.tuned) if self.tuned.adapter else base_of(self.tuned)
        if section is None:
            raise ModelError(f"{self.tuned.path}: what it was tuned from is not known; use against=none, or name it")
        with told_of(f"{self.tuned.path}: its base"):
            return load_section(section, self.device)


def chosen(model: str, against: str, device: str) -> Systems:
    """The models that a recipe names. Raises ModelError for what is not there or writes no text."""
    tuned = find_source(model)
    if against not in ("base", "none"):
        return Systems(tuned, find_source(against), False, device)
    known = bool(tuned.base) if tuned.adapter else base_of(tuned) is not None
    return Systems(tuned, None, against == "base" and known, device)


def scores(found: Found) -> bool:
    """Whether it scores texts and writes none: a reward model or a classifier."""
    return bool(found.classes) or (found.run is not None and read_command(found.run) == "rm")


def identity(system: System, systems: Systems) -> str:
    """Changes when the model's weights do, as far as a look at its files tells; those of the hub need not be here."""
    source = system.source or systems.tuned
    section = section_of(source) if source.adapter or system.source else base_of(source)
    if section is None or not section.path:
        return ""  # loading it says what is wrong
    with told_of(source.path):
        weights = _weights(section)
    if system.source is None or not source.adapter:
        return weights
    stat = Path(source.folder, "adapter_model.safetensors").stat()
    return f"{weights} {stat.st_size} {stat.st_mtime_ns}"


def _weights(section: "Model") -> str:
    from ftune.models.fingerprint import base_fingerprint
    from ftune.models.load import load_config

    located = locate_model(section.path)
    if not is_hub_id(located):
        return base_fingerprint(located)
    config = load_config(located, revision=section.revision, trust_remote_code=section.trust_remote_code)
    return f"{located} {getattr(config, '_commit_hash', None)}"


def _base_path(found: Found) -> str:
    section = base_of(found)
    return section.path if section else ""


def _tuned(found: Found, base: "PreTrainedModel | None", device: str) -> "PreTrainedModel":
    """The model of a source; an adapter is folded into its base where that is exact, which is faster."""
    if found.adapter and not found.base:
        raise ModelError(f"{found.path}: does not say what it was trained on; evaluate it merged ('ftune merge')")
    with told_of(found.path):
        model = base if base is not None else load_section(section_of(found), device)
        if not found.adapter:
            return model
        from ftune.peft.adapters import load_adapter

        tuned = load_adapter(model, Path(found.folder))
    if found.run is not None and not found.quantization and not found.unmergeable:
        tuned.merge_adapter()
    return tuned
