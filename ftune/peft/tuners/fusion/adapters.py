"""Trained bottleneck adapters, read from their folders to be fused."""

import re
from collections.abc import Sequence
from pathlib import Path

from peft import PeftConfig
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor, nn

from ftune.core.errors import ModelError
from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.phm import kronecker_sum
from ftune.peft.tuners.fusion.layer import FusionLayer

Weights = dict[str, dict[str, Tensor]]
"""An adapter's weights by the path of the sublayer and the name of the parameter."""


def read_adapters(folders: Sequence[Path]) -> tuple[list[BottleneckConfig], list[Weights]]:
    """Configs of saved bottleneck adapters and their weights, by the path of the sublayer and the parameter's name.

    A Compacter's projections are multiplied out, so all weights are those of plain bottlenecks. Raises ModelError when
    a folder holds something else, or when the adapters differ in style, base or place.
    """
    configs = [_config(folder) for folder in folders]
    weights = [_weights(folder, config) for folder, config in zip(folders, configs, strict=True)]
    for folder, config, places in zip(folders[1:], configs[1:], weights[1:], strict=True):
        facts = {
            "style": (configs[0].style, config.style),
            "base model": (configs[0].base_model_name_or_path, config.base_model_name_or_path),
            "set of adapted modules": (_extent(weights[0]), _extent(places)),
        }
        for what, (wanted, found) in facts.items():
            if wanted != found:
                raise ModelError(
                    f"peft.adapters: the {what} differs: '{wanted}' in {folders[0]}, '{found}' in {folder}; "
                    "fuse adapters that were trained alike"
                )
    return configs, weights


def fill(model: nn.Module, weights: Sequence[Weights]) -> None:
    """Give the frozen bottlenecks of a model's one fusion their weights."""
    for path, layer in model.named_modules():
        if isinstance(layer, FusionLayer):
            (bottlenecks,) = layer.fusion_adapters.values()
            for bottleneck, places in zip(bottlenecks.children(), weights, strict=True):
                bottleneck.load_state_dict(places[path])


def _extent(places: Weights) -> str:
    return f"{len(places)}, {min(places)} to {max(places)}"


def _config(folder: Path) -> BottleneckConfig:
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, BottleneckConfig):
        raise ModelError(
            f"peft.adapters: {folder} holds '{config.peft_type.lower()}'; only 'peft: adapter' can be fused"
        )
    return config


def _weights(folder: Path, config: BottleneckConfig) -> Weights:
    saved = load_peft_weights(str(folder), device="cpu")
    places: Weights = {}
    for key, value in saved.items():
        if match := re.fullmatch(r"base_model\.model\.(.+)\.bottleneck_adapters\.(.+)", key):
            places.setdefault(match[1], {})[match[2]] = value
    if config.phm_dimension:
        shared = saved["base_model.bottleneck_shared"]
        for place in places.values():
            for projection in ("down", "up"):
                left, right = (place.pop(f"{projection}.{side}") for side in ("left", "right"))
                place[f"{projection}.weight"] = kronecker_sum(shared, left, right)
    return places
