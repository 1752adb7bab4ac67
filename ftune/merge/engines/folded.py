"""One layer's adapter folded into its weights: peft's own mathematics in fp32, rounded once."""

from copy import deepcopy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

FLOATING = (torch.float32, torch.float16, torch.bfloat16)


class UnfoldableError(Exception):
    """The layer's adapter has no equal among the layer's own weights; the message says why."""


@torch.no_grad()
def folded(adapted: nn.Module, original: nn.Module) -> dict[nn.Parameter, Tensor]:
    """The weights of `original` that an adapter changes, and what they become, in their own dtype.

    `adapted` is what peft put in the place of `original`. It is computed on a copy of this one layer, so nothing is
    left to undo. For LoRA W' = round(fp32(W) + s B A), as peft 0.21 has it too; with `safe_merge`, and in DoRA, OFT and
    others, it would round the update or the factors first where the weights have 16 bit.

    Raises UnfoldableError.
    """
    if isinstance(adapted, ModulesToSaveWrapper):
        raise UnfoldableError("it is a whole module of its own")
    own = dict(original.named_parameters())
    if not own or any(value.dtype not in FLOATING or value.is_meta for value in own.values()):
        raise UnfoldableError("its weights are quantised, or not in memory")
    with torch.autocast(next(iter(own.values())).device.type, enabled=False):
        merged = dict(_merged(deepcopy(adapted).float()).named_parameters())
    if merged.keys() != own.keys():
        raise UnfoldableError(f"it adds {', '.join(sorted(merged.keys() - own.keys()))}, which the layer does not have")
    rounded = {parameter: merged[name].detach().to(parameter.dtype) for name, parameter in own.items()}
    return {parameter: value for parameter, value in rounded.items() if not torch.equal(value, parameter)}


def _merged(layer: nn.Module) -> nn.Module:
    """The plain module with the adapter in its weights; changes `layer`."""
    if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise UnfoldableError(f"peft cannot merge a {type(layer).__name__}")
    try:
        if isinstance(layer, AuxiliaryTrainingWrapper):  # trained rows of an embedding
            plain: nn.Module = layer.unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=None
            )
            return plain
        for each in list(layer.modules()):  # adapters of several parameters of a module are one around the other
            if isinstance(each, BaseTunerLayer):
                each.merge()
        base: nn.Module = layer.get_base_layer()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:  # mostly NotImplementedError, which is one
        cause = f": {error}".split("\n")[0] if str(error) else ""
        raise UnfoldableError(f"peft cannot merge a {type(layer).__name__}{cause}") from error
    return base
