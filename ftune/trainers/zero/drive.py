"""Room for weights that ZeRO-3 keeps on a drive."""

from typing import Any

import torch

IN_FLIGHT = 40
"""Weights that a layer with its neighbours brings in at once; DeepSpeed's own 5 are fewer than those of one layer."""


def with_buffers(config: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """DeepSpeed's configuration with buffers that the largest weight of `model` fits into.

    DeepSpeed 0.19.8 cannot size them by itself: by default they hold 100 million numbers each.
    """
    zero = config["zero_optimization"]
    place = zero.get("offload_param", {})
    if place.get("device") != "nvme":
        return config
    largest = max(parameter.numel() for parameter in model.parameters())
    place = {**place, "buffer_size": largest, "buffer_count": IN_FLIGHT}
    return {**config, "zero_optimization": {**zero, "offload_param": place}}
