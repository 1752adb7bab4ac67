"""Weights in one piece under ZeRO, for saving."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)


@contextmanager
def whole(engine: Any, config: Any, *, keep: bool, only_trained: bool) -> Iterator[None]:
    """Inside, the model's parameters are whole on the CPU, trained ones in fp32, where `keep`: for saving.

    All ranks have to enter. Elsewhere they are as they were, and so they are everywhere afterwards. With
    `only_trained`, frozen parameters are left alone: an adapter's base stays cut up in stage 3. There must be no
    forward pass inside: in stage 3 it would wait for the other ranks. `config` is `hf_deepspeed_config` of the
    trainer's arguments, which is out of force inside: other models load as in any process.
    """
    before: dict[torch.nn.Parameter, torch.Tensor] = {}
    for parameter in engine.module.parameters():
        if parameter.requires_grad or not only_trained:
            value = _gathered(parameter)
            if keep:
                before[parameter], parameter.data = parameter.data, value.to("cpu", copy=True)
    splits_loading = is_deepspeed_zero3_enabled()
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if splits_loading:
            set_hf_deepspeed_config(config)
        for parameter, data in before.items():
            parameter.data = data


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.requires_grad:
        value: torch.Tensor = safe_get_full_fp32_param(parameter)
        return value
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.data.clone()
