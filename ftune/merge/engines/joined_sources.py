"""LoRA adapters as files: which of them have a sum that is LoRA again, and their factors."""

import json
import re
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ftune.core.errors import ModelError
from ftune.core.paths import shown

PREFIX = "base_model.model."
"""What peft puts before a layer's name."""

FACTOR = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<letter>[AB])(\.weight)?")

BASE = re.compile(rf"{re.escape(PREFIX)}(?P<layer>((?!\.lora_).)+?)(\.base_layer)?\.weight")
"""A layer's own weight; peft calls it `base_layer` where the layer has an adapter."""

HARMLESS = {
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("init_lora_weights", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "runtime_config"),
    *("megatron_core", "qalora_group_size"),
}
"""Settings of peft's LoRA that the update B A and its scale already contain, or that change nothing by themselves."""

REASONS = {
    "use_dora": "DoRA rescales the base's weight too",
    "modules_to_save": "modules that trained in full have no low rank",
    "trainable_token_indices": "tokens that trained in full have no low rank",
    "bias": "biases that trained in full have no low rank",
}
"""Why the commonest other settings have no sum that is LoRA."""

KEEP_BASE = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base as it was; the others make peft change it on loading."""


@dataclass(frozen=True, slots=True)
class Factors:
    """The update B A of one layer; of an embedding it is the transposed update."""

    a: Tensor
    """[rank, in], fp32."""
    b: Tensor
    """[out, rank], fp32."""

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the update."""
        return self.b.shape[0], self.a.shape[1]

    def scaled(self, factor: float) -> "Factors":
        """The update times `factor`, whose root goes into each of both."""
        root = sqrt(abs(factor))
        return Factors(self.a * root, self.b * (root if factor >= 0 else -root))


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter folder's content, with the scale alpha / rank in the factors."""

    folder: Path
    config: Any
    """peft's LoraConfig."""
    layers: dict[str, Factors]
    """By the layer's name in the base."""
    embeddings: set[str]
    """Which of the layers are embeddings."""
    base_tensors: dict[str, Tensor]
    """Weights of the base's embeddings that lie in the same file, by the layer's name in the base."""


def read_adapter(folder: Path) -> LoraAdapter:
    """The LoRA adapter in `folder`; raises ModelError if it is none, or none whose sum with others is LoRA."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    given = _read_config(folder)
    _check(folder, given, LoraConfig().to_dict())
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{shown(folder / 'adapter_config.json')}: peft refuses it: {error}; save the adapter again"
        ) from error
    adapter = LoraAdapter(folder, config, {}, set(), {})
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_tensors(folder).items():
        if match := FACTOR.fullmatch(name):
            found.setdefault(match["layer"], {})[match["letter"]] = tensor
            if match["embedding"]:
                adapter.embeddings.add(match["layer"])
        elif match := BASE.fullmatch(name):
            adapter.base_tensors[match["layer"]] = tensor
        else:
            raise _unfit(folder, f"its tensor '{name}' is no factor of LoRA")
    for layer, pair in found.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            shapes = " and ".join(f"{letter} {list(tensor.shape)}" for letter, tensor in sorted(pair.items()))
            raise _unfit(folder, f"'{layer}' has {shapes}, not A [rank, in] and B [out, rank] of a linear layer")
        alphas = config.alpha_pattern or {}
        alpha = alphas.get(get_pattern_key(alphas, layer), config.lora_alpha)
        scale = alpha / (sqrt(len(a)) if config.use_rslora else len(a))
        adapter.layers[layer] = Factors(a.float(), b.float()).scaled(scale)
    if not adapter.layers:
        raise _unfit(folder, "it has no factors of LoRA")
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{shown(path)}: not readable ({error}); each source must be a folder of a LoRA adapter"
        ) from error
    if not isinstance(given, dict):
        raise ModelError(f"{shown(path)}: not a JSON object; each source must be a folder of a LoRA adapter")
    return given


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{shown(path)}: not readable ({error}); save the adapter again as safetensors") from error
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{shown(path)}: '{name}' holds values that are not finite; take an earlier checkpoint's")
    return tensors


def _check(folder: Path, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Every setting is known to be contained in the factors, or has no effect."""
    if given.get("peft_type") != "LORA":
        raise _unfit(folder, f"its method is '{given.get('peft_type')}', not LoRA")
    if given.get("init_lora_weights") not in KEEP_BASE:
        raise _unfit(folder, f"it belongs to a base that 'init_lora_weights: {given['init_lora_weights']}' changed")
    for key, value in given.items():
        if key not in HARMLESS and value and value != defaults.get(key):
            raise _unfit(folder, f"it has '{key}: {value}' ({REASONS.get(key, 'not in the sum of low-rank updates')})")


def _unfit(folder: Path, reason: str) -> ModelError:
    return ModelError(f"{shown(folder)}: {reason}, so it cannot be joined into one LoRA adapter; use 'save: model'")
