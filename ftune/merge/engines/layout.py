"""Which tensors of a model's files each parameter of its class is, as transformers' own conversions say it.

Mostly they have the same names. Files of models that see and read name their parts otherwise (`language_model.model.`
is `model.language_model.`), and those of mixtures hold each expert's matrices by themselves, which the class has as
one tensor of three dimensions. What is written has the names and the shapes of the files again.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from ftune.core.errors import ModelError
from ftune.merge.checkpoint import Checkpoint
from ftune.merge.engines.skeleton import Skeleton
from ftune.merge.tensors import Stored


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the files that a parameter is, or is put together from."""

    stored: Stored
    pattern: str | None
    """What transformers calls its place in the parameter; None where it is all of it."""


class Layout:
    """The tensors of a model's files by the parameters that they are."""

    def __init__(self, base: Checkpoint, model: Skeleton) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        self._model: Any = model.model
        conversions = get_model_conversion_mapping(self._model)
        renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
        converters = [one for one in conversions if isinstance(one, WeightConverter)]
        self._converters = {pattern: one for one in converters for pattern in one.source_patterns}
        self._parts: dict[str, list[Part]] = {}
        own, prefix = dict.fromkeys(model.names, True), model.prefix
        for file_name in sorted(base.tensors, key=dot_natural_key):  # the order in which experts are stacked
            name, pattern = rename_source_key(file_name, renamings, converters, prefix, own)
            if name not in own:  # as it is, or with the name of the inner model before it or without
                name, pattern = rename_source_key(file_name, [], [], prefix, own)
            if name in own and (pattern is None or len(self._converters[pattern].target_patterns) == 1):
                self._parts.setdefault(name, []).append(Part(base.tensors[file_name], pattern))
        self._used = [one for one in conversions if one.was_used()]

    def parts(self, name: str) -> list[Part]:
        """The tensors that a parameter is made of; none where the files do not hold it."""
        return self._parts.get(name, [])

    @property
    def names(self) -> dict[str, str]:
        """The parameter that each tensor of the files belongs to."""
        return {part.stored.name: name for name, parts in self._parts.items() for part in parts}

    def read(self, name: str) -> torch.Tensor | None:
        """A parameter, put together where need be; None where the files do not hold it."""
        parts = self.parts(name)
        if not parts or parts[0].pattern is None:
            return parts[0].stored.read() if parts else None
        converter = deepcopy(self._converters[parts[0].pattern])
        for part in parts:
            converter.add_tensor(name, part.stored.name, part.pattern, part.stored.read())
        made: torch.Tensor = _only(converter.convert(name, model=self._model, config=self._model.config)[name])
        return made

    def apart(self, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the files hold of a parameter, by their names. Raises ModelError where it cannot be taken apart."""
        from transformers.core_model_loading import revert_weight_conversion

        parts = self.parts(name)
        if len(parts) == 1 and parts[0].pattern is None:
            return {parts[0].stored.name: value}
        self._model._weight_conversions = self._used  # where transformers looks for what was converted
        found: dict[str, torch.Tensor] = revert_weight_conversion(self._model, {name: value})
        if {one: tuple(tensor.shape) for one, tensor in found.items()} != {
            part.stored.name: part.stored.shape for part in parts
        }:
            raise ModelError(f"'{name}' cannot be written as the files of the base hold it ('{parts[0].stored.name}')")
        return found


def _only(found: Any) -> Any:
    return found[0] if isinstance(found, list) else found
