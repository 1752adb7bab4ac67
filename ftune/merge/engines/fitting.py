"""An adapter loaded by peft onto a base that it fits, or a plain word about why it does not."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.engines.adapter import CONFIG, WEIGHTS, kind_of
from ftune.merge.engines.adapter_faults import check_kind, check_whole, in_words
from ftune.merge.tensors import stored_in
from ftune.peft.adapters import load_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CHANGED_BASES = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initialisations of LoRA with which peft 0.21 changes the base's weights once more while it loads the adapter."""

RIGHT_BASE = "use it with the model that it was trained on"


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
    base_weights = weights_in(base, tensors_of(folder)).keys()
    check_kind(folder, kind_of(folder))
    _check_start(folder)
    with in_words(folder, "cannot be put on this base", "fetch or save the adapter again", RIGHT_BASE):
        model = load_adapter(base, folder)
    check_whole(model, folder / WEIGHTS, base_weights, RIGHT_BASE)
    return model


def _check_start(folder: Path) -> None:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGED_BASES):
        raise ModelError(
            f"{shown(folder)}: the adapter belongs on a base that 'init_lora_weights: {start}' changed, not on this; "
            "save it with peft's 'path_initial_model_for_weight_conversion', as 'ftune sft' does"
        )
