"""Weights in one piece under ZeRO, for saving."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from transformers.integrations import deepspeed as integration


@contextmanager
def whole(
    module: torch.nn.Module, *, keep: bool = True, frozen: Callable[[str], bool] = lambda name: False
) -> Iterator[None]:
    """Inside, what trains stands whole, in fp32 and on the CPU in the module where `keep`: for saving.

    All ranks have to enter. So does of all else what `frozen` says of its name, as stage 3 cuts it up like the rest.
    Elsewhere, and everywhere afterwards, parameters are as they were. Inside, a pass through modules that stand whole
    waits for no other rank, as what peft saves of virtual tokens needs it; other models load as in any process.
    """
    before: dict[torch.nn.Parameter, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or frozen(name):
            value = _gathered(parameter)
            if keep:
                before[parameter], parameter.data = parameter.data, value.to("cpu", copy=True)
    reference = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()  # with it, transformers cuts up in stage 3 whatever it loads
    try:
        with _without_hooks(module):
            yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference
        for parameter, data in before.items():
            parameter.data = data


@contextmanager
def _without_hooks(module: torch.nn.Module) -> Iterator[None]:
    """DeepSpeed's hooks, which would gather what a pass needs, are off."""
    kept = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    for part, _, _ in kept:
        part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = before, after


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.requires_grad:
        value: torch.Tensor | None = safe_get_full_fp32_param(parameter)
        return parameter.data if value is None else value  # None: no engine was made
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.data.clone()
