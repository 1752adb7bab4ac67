"""An adapter as a source of changed weights: peft's own mathematics, in fp32, one layer at a time.

The adapter is loaded onto a skeleton of its base. For one layer after the other, the base's weights are put where the
skeleton has placeholders, peft merges the layer, and the result is taken out again. So whatever peft can merge is
merged as peft does it, and no more than a layer of the model is ever in memory.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedConfig

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.engines.adapter_faults import check_kind, check_whole, in_words
from ftune.merge.engines.lora_rows import is_plain, with_update
from ftune.merge.engines.skeleton import Skeleton, is_placeholder, placeholder
from ftune.merge.engines.stream import Read
from ftune.merge.tensors import stored_in
from ftune.peft.adapters import load_adapter
from ftune.peft.decomposed import DECOMPOSED

WRAPPINGS = ("base_layer.", "original_module.", "token_adapter.")
"""What peft puts into the names of parameters that it wraps."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

UNMERGEABLE = "cannot be merged"
SERVE = "serve it as an adapter instead (peft loads it on its base; vLLM takes LoRA with --lora-modules)"


def kind_of(folder: Path) -> str:
    """What peft calls the kind of an adapter: LORA, IA3, ... Raises ModelError where there is no adapter."""
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{shown(folder)}: holds no adapter that can be read ({CONFIG}: {error})") from None


class AdapterSource:
    """Weights of a base with one adapter in them."""

    def __init__(self, base: Skeleton, folder: Path, read: Read) -> None:
        """Put the adapter in `folder` on `base`. Raises ModelError where it does not fit or cannot be merged."""
        self._read, self._folder = read, folder
        own = set(_whole_tensors(base, folder))
        check_kind(folder, kind_of(folder))
        for name in base.names:
            if name in own:
                _put(base.model, name, torch.zeros(base.model.get_parameter(name).shape))
            elif kind_of(folder) in DECOMPOSED:
                _put(base.model, name, _needed(read(name), name, folder).float())
        with in_words(folder, "cannot be put on the base", "fetch or save the adapter again"):
            self._model: Any = load_adapter(base.model, folder)
        check_whole(self._model, folder / WEIGHTS, _stored_of_base(base, folder))
        tuner = self._model.base_model
        if self._model.peft_config["default"].is_prompt_learning or not hasattr(tuner, "_check_merge_allowed"):
            raise ModelError(f"{shown(folder)}: virtual tokens are no weights and cannot be merged; {SERVE}")
        with in_words(folder, UNMERGEABLE, SERVE):
            tuner._check_merge_allowed()
        self._wrappers = dict(_wrappers(tuner.model))
        self._owner = {name: path for path in self._wrappers for name in base.names if name.startswith(f"{path}.")}
        self._whole = {name: tuner.model.get_parameter(name) for name in own - self._owner.keys()}
        self._done: dict[str, torch.Tensor] = {}

    def touches(self, name: str) -> bool:
        """Whether it changes this parameter."""
        return name in self._owner or name in self._whole or name in self._done

    def merged(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A parameter that it changes, with the adapter in it, rounded once to `dtype`; each can be had once."""
        if name in self._whole:
            whole: torch.Tensor = self._whole[name].detach().to(dtype)
            return whole
        path = self._owner.get(name, "")
        if name == f"{path}.weight" and is_plain(self._wrappers.get(path)):
            module: Any = self._wrappers.pop(path)
            value = self._base(name, module.base_layer.weight.shape)
            return with_update(value, module, dtype)
        if name not in self._done:
            self._merge(path)
        return self._done.pop(name).to(dtype)

    def made(self) -> Iterator[str]:
        """Parameters that the base does not have, such as biases: once all others have been asked for."""
        while self._wrappers:
            self._merge(next(iter(self._wrappers)))
        yield from list(self._done)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The base's configuration, with a place for biases that merging makes."""
        switched = getattr(self._model.base_model, "_switched", lambda _: None)(None)
        if switched is not None:
            switched.apply(self._model.base_model.model)
        config: PreTrainedConfig = self._model.base_model.model.config
        return config

    def _merge(self, path: str) -> None:
        module = self._wrappers.pop(path, None)
        if module is None:
            raise ModelError(f"{shown(self._folder)}: merging '{path}' gives other parameters than it has")
        holders = list(_placeholders(path, module))
        for name, holder, leaf in holders:
            value = self._base(name, holder._parameters[leaf].shape)  # type: ignore[union-attr]
            holder._parameters[leaf] = nn.Parameter(value.float(), requires_grad=False)
        with in_words(self._folder, UNMERGEABLE, SERVE), torch.no_grad():
            result = _merged_module(module)
        for name, value in result.named_parameters():
            if not is_placeholder(value):
                self._done[f"{path}.{name}"] = value.detach().float()
        for _, holder, leaf in holders:
            holder._parameters[leaf] = placeholder(holder._parameters[leaf].shape)  # type: ignore[union-attr]

    def _base(self, name: str, shape: torch.Size) -> torch.Tensor:
        """A parameter of the base, in its own dtype."""
        value = _needed(self._read(name), name, self._folder)
        if value.shape != shape:
            raise ModelError(f"'{name}' is {_shape(value.shape)} in the base, {_shape(shape)} here")
        return value


def _merged_module(module: Any) -> nn.Module:
    if hasattr(module, "unload_and_optionally_merge_module"):
        unloaded: nn.Module = module.unload_and_optionally_merge_module(
            merge=True, safe_merge=False, adapter_names=None
        )
        return unloaded
    module.merge(safe_merge=False, adapter_names=None)
    merged: nn.Module = module.get_base_layer()
    return merged


def _wrappers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that peft has wrapped, by their path in the base."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path.startswith(inside or ("\0",)):
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and _active(module):
            inside = (*inside, f"{path}.")
            yield path, module


def _active(module: Any) -> bool:
    """Whether a wrapper holds anything; peft wraps some layers for others' sake."""
    return not isinstance(module, BaseTunerLayer) or hasattr(module, "base_layer")


def _placeholders(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """What a wrapper needs of the base: the parameter's plain name, and the module that holds it under which name."""
    for inner, holder in module.named_modules():
        for leaf, parameter in list(holder.named_parameters(recurse=False)):
            if is_placeholder(parameter):
                name = f"{inner}.{leaf}" if inner else leaf
                yield f"{path}.{_plain(name)}", holder, leaf


def _plain(name: str) -> str:
    """The name of a parameter without what peft has put into it."""
    for wrapping in WRAPPINGS:
        name = name.replace(wrapping, "")
    return name


def _whole_tensors(base: Skeleton, folder: Path) -> Iterator[str]:
    """Parameters of the base itself that an adapter's file holds whole: biases, resized embeddings."""
    stored = set(_stored_of_base(base, folder).values())
    yield from (name for name in base.names if name in stored)


def _stored_of_base(base: Skeleton, folder: Path) -> dict[str, str]:
    """The parameters of the base itself in an adapter's file, by their names there."""
    plain = {one.name: _plain(one.name.removeprefix("base_model.model.")) for one in stored_in(folder / WEIGHTS)}
    return {name: own for name, own in plain.items() if own in base.names}


def _put(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def _needed(value: torch.Tensor | None, name: str, folder: Path) -> torch.Tensor:
    if value is None:
        raise ModelError(f"{shown(folder)}: changes '{name}', which the base's files do not hold; {SERVE}")
    return value


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))
