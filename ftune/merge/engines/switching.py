"""Several adapters on one base model, switched between requests: W + BA - BA + B'A' of LoRA (arXiv:2106.09685, 4.2).

Subtracting BA in floating point does not give W back, and the error would grow with every switch. So the original of
each weight that an adapter changes is kept in the host's memory, and copied back: after any sequence of switches the
base is the base bit for bit, and an adapter's weights are those of its first use.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.core.suggest import did_you_mean
from ftune.merge.engines.exchanged import Change, Watch
from ftune.merge.engines.fitting import fitting_adapter, tensors_of, weights_in
from ftune.merge.engines.folded import UnfoldableError, folded

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Weights = dict[nn.Parameter, Tensor]
"""Weights of the base and what they were, or become: same shapes and dtypes, in the host's memory where kept."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An adapter at hand: what is folded into weights when it is used, and what has to stay beside them."""

    model: "PeftModel"
    overwritten: Weights
    """What the adapter's file brings of the base's own weights, as for embeddings that were resized."""
    folds: list[Change]
    live: list[Change]
    reason: str
    """Why not all of it is folded; empty when it is."""


class Switch:
    """Adapters of any methods on one base, one of them or none in use. For inference: nothing is trainable.

    What can be merged is merged into the base's weights, so it costs a forward pass nothing; a switch costs one merge.
    The rest stays beside them as peft has it: virtual tokens, bottleneck layers, `modules_to_save`, layers with weights
    in 4 or 8 bit, and layers that share their weights with another (tied embeddings), which would get the update too.
    Ask `model` for the model after each switch. Move the base to its device before.
    """

    def __init__(self, base: "PreTrainedModel", adapters: Mapping[str, Path] | None = None) -> None:
        """Raises ModelError as `add` does."""
        self._base = base.eval().requires_grad_(requires_grad=False)
        self._adapters: dict[str, _Loaded] = {}
        self._originals: Weights = {}
        self._written: list[nn.Parameter] = []
        self._live: list[Change] = []
        self._current: str | None = None
        for name, folder in (adapters or {}).items():
            self.add(name, folder)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order in which they were added."""
        return tuple(self._adapters)

    @property
    def current(self) -> str | None:
        """The adapter in use; None is the base."""
        return self._current

    @property
    def model(self) -> "PreTrainedModel | PeftModel":
        """What to call now: the base model itself, or peft's where not all of the adapter is folded into it."""
        if self._current is None or not self.unmerged(self._current):
            return self._base
        return self._adapters[self._current].model

    def unmerged(self, name: str) -> str:
        """Why an adapter costs something in each forward pass, in one line; empty where it does not."""
        return self._named(name).reason

    def add(self, name: str, folder: Path) -> None:
        """Load one more adapter; the one in use stays in use.

        Raises ModelError when the name is taken, the folder has no adapter, or it does not fit the base. Everything is
        then as it was.
        """
        if name in self._adapters:
            raise ModelError(f"{shown(folder)}: there is an adapter '{name}' already; choose another name")
        with self.using(None):
            self._adapters[name] = self._load(folder)

    def use(self, name: str | None) -> None:
        """Make an adapter the one in use, or none. Raises ModelError for an unknown name, and changes nothing."""
        loaded = None if name is None else self._named(name)
        if name == self._current:
            return
        self._leave()
        if loaded is None:
            return
        try:
            self._enter(loaded)
        except BaseException:  # an interrupt too: no weights of half an adapter
            self._leave()
            raise
        self._current = name

    @contextmanager
    def using(self, name: str | None) -> "Iterator[PreTrainedModel | PeftModel]":
        """The model with that adapter for a while; then the one that was in use before."""
        before = self._current
        self.use(name)
        try:
            yield self.model
        finally:
            self.use(before)

    def _named(self, name: str) -> _Loaded:
        if name not in self._adapters:
            raise ModelError(f"there is no adapter '{name}'{did_you_mean(name, self._adapters)}")
        return self._adapters[name]

    def _enter(self, loaded: _Loaded) -> None:
        for parameter, value in loaded.overwritten.items():
            self._write(parameter, value)
        for change in loaded.folds:
            for parameter, value in folded(change.after, change.before).items():
                self._write(parameter, value)
        self._live = loaded.live
        for change in loaded.live:
            change.put_in()

    def _leave(self) -> None:
        self._current = None
        for change in reversed(self._live):
            change.take_out()
        self._live = []
        for parameter in self._written:
            _copy(self._originals[parameter], parameter)
        self._written = []

    def _write(self, parameter: nn.Parameter, value: Tensor) -> None:
        self._written.append(parameter)
        _copy(value, parameter)

    def _load(self, folder: Path) -> _Loaded:
        """The adapter, tried and taken out of the base again, which has none in use.

        Every layer is folded once, so that what a switch will do is known to work.
        """
        watch, shared = Watch(self._base), _shared(self._base)
        kept = {each: _on_host(each) for each in weights_in(self._base, tensors_of(folder)).values()}
        at_risk = list(kept)
        folds, live, reason = [], [], ""
        try:
            model = fitting_adapter(self._base, folder)
            overwritten = {each: now for each, was in kept.items() if not torch.equal(now := _on_host(each), was)}
            touched = set(overwritten)
            for change in watch.changes():
                if change.key == "peft_config":  # peft's note on the model, which nothing in it reads
                    continue
                try:
                    weights = _fold(change, shared)
                except UnfoldableError as error:
                    live.append(change)
                    reason = reason or f"'{change.place}' stays beside the model: {error}"
                    continue
                if not all(bool(value.isfinite().all()) for value in weights.values()):
                    raise ModelError(f"{shown(folder)}: the adapter's update of '{change.place}' is not finite")
                folds.append(change)
                touched.update(weights)
                kept |= {each: _on_host(each) for each in weights if each not in kept}
        finally:
            for change in reversed(watch.changes()):
                change.take_out()
            for each in at_risk:
                _copy(kept[each], each)
        self._originals |= {each: kept[each] for each in touched if each not in self._originals}
        if model.active_peft_config.is_prompt_learning:
            reason = "virtual tokens are inputs, not weights"
        return _Loaded(model, overwritten, folds, live, reason)


def _fold(change: Change, shared: set[nn.Parameter]) -> Weights:
    """What becomes of a layer's weights. Raises UnfoldableError."""
    if not (isinstance(change.before, nn.Module) and isinstance(change.after, nn.Module)):
        raise UnfoldableError("it hooks into the model")
    if any(each in shared for each in change.before.parameters()):
        raise UnfoldableError("its weights are those of another layer too")
    return folded(change.after, change.before)


def _shared(model: nn.Module) -> set[nn.Parameter]:
    """Parameters in several places, as those of tied embeddings."""
    places = Counter(each for _, each in model.named_parameters(remove_duplicate=False))
    return {each for each, count in places.items() if count > 1}


def _on_host(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


@torch.no_grad()
def _copy(value: Tensor, parameter: nn.Parameter) -> None:
    parameter.copy_(value)
