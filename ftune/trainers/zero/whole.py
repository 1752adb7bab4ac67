"""Weights in one piece under ZeRO, for saving."""

from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from transformers.integrations import deepspeed as integration


@contextmanager
def whole(module: torch.nn.Module, *, keep: bool = True, frozen: bool = False) -> Iterator[None]:
    """Inside, what trains stands whole, in fp32 and on the CPU in the module where `keep`: for saving.

    All ranks have to enter. With `frozen`, what does not train stands whole too, as stage 3 cuts it up like the rest.
    Elsewhere, and everywhere afterwards, parameters are as they were. There must be no pass inside: in stage 3 it would
    wait for the other ranks. Other models load inside as in any process.
    """
    before: dict[torch.nn.Parameter, torch.Tensor] = {}
    for parameter in module.parameters():
        if parameter.requires_grad or frozen:
            value = _gathered(parameter)
            if keep:
                before[parameter], parameter.data = parameter.data, value.to("cpu", copy=True)
    reference = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()  # with it, transformers cuts up in stage 3 whatever it loads
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference
        for parameter, data in before.items():
            parameter.data = data


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.requires_grad:
        value: torch.Tensor | None = safe_get_full_fp32_param(parameter)
        return parameter.data if value is None else value  # None: no engine was made
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.data.clone()
