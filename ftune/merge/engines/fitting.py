"""An adapter loaded by peft onto a base that it fits, or a plain word about why it does not."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict
from torch import nn

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.engines.adapter import CONFIG, WEIGHTS, kind_of
from ftune.merge.tensors import stored_in
from ftune.peft.adapters import load_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CHANGED_BASES = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initialisations of LoRA with which peft 0.21 changes the base's weights once more while it loads the adapter."""


def tensors_of(folder: Path) -> list[str]:
    """Names of the tensors of an adapter. Raises ModelError when the folder has none that can be read."""
    kind_of(folder)
    return [stored.name for stored in stored_in(folder / WEIGHTS)]


def weights_in(base: nn.Module, tensors: Iterable[str]) -> dict[str, nn.Parameter]:
    """The base's own weights among an adapter's tensors, by the tensor's name.

    peft 0.21 writes embeddings that LoRA is on, or that were resized, and loads them into the base itself; modules to
    save have such names too.
    """
    own = dict(base.named_parameters(remove_duplicate=False))
    plain = {name: name.removeprefix("base_model.model.").replace(".base_layer.", ".") for name in tensors}
    return {name: own[path] for name, path in plain.items() if path in own}


def fitting_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """`base` with the adapter on it, every tensor of which has found its place.

    Raises ModelError; the base may then have a part of the adapter on it.
    """
    tensors = set(tensors_of(folder))
    base_weights = weights_in(base, tensors).keys()
    _check_start(folder)
    try:
        model = load_adapter(base, folder)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(f"{shown(folder)}: the adapter does not fit this base: {_in_one_line(error)}") from error
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    homeless, missing = sorted(tensors - expected - base_weights), sorted(expected - tensors)
    if homeless or missing:
        what = "has no place for" if homeless else "needs also"
        names = homeless or missing
        raise ModelError(
            f"{shown(folder)}: the adapter is one of another base: this one {what} {len(names)} of its tensors: "
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        )
    return model


def _check_start(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGED_BASES):
        raise ModelError(
            f"{shown(folder)}: the adapter belongs on a base that 'init_lora_weights: {start}' changed, not on this; "
            "save it with peft's 'path_initial_model_for_weight_conversion', as 'ftune sft' does"
        )


def _in_one_line(error: Exception) -> str:
    """The first faults of peft's message, which has a line for each tensor of a wrong shape."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    misfits = [line.removeprefix("size mismatch for ") for line in lines if line.startswith("size mismatch for ")]
    return f"{len(misfits)} tensors have other shapes: {'; '.join(misfits[:3])}" if misfits else lines[0]
