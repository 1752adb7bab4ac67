"""The base as a QLoRA adapter saw it: its weights quantised, and unpacked again (arXiv:2305.14314, equation 5)."""

import torch
from torch import nn

from ftune.core.errors import ModelError
from ftune.merge.engines.skeleton import Skeleton
from ftune.merge.engines.stream import Read


def requantised(read: Read, model: Skeleton, kind: str, *, double: bool, dtype: str) -> Read:
    """Reads parameters as `read` does, those that transformers would quantise as nf4 or int8 with what that loses.

    These come in fp32. `dtype` is torch's name of the one that the base was loaded in before it was quantised. Raises
    ModelError without bitsandbytes.
    """
    try:
        import bitsandbytes.functional as bnb
    except ImportError:
        raise ModelError(
            "base_weights: 'quantized' needs bitsandbytes to quantise the base as in training; "
            "pip install 'ftune[quantization]', or use 'base_weights: full'"
        ) from None
    names, loaded = quantised_names(model), getattr(torch, dtype)

    def read_quantised(name: str) -> torch.Tensor | None:
        value = read(name)
        if value is None or name not in names:
            return value
        if kind == "nf4":
            packed, state = bnb.quantize_4bit(value.to(loaded), compress_statistics=double, quant_type="nf4")
            unpacked: torch.Tensor = bnb.dequantize_4bit(packed, state)
            return unpacked.float()
        rows, scales, _ = bnb.int8_vectorwise_quant(value.half())
        unpacked = bnb.int8_vectorwise_dequant(rows, scales)
        return unpacked.float()

    return read_quantised


def quantised_names(model: Skeleton) -> frozenset[str]:
    """The weights that transformers quantises: of all linear layers but the output layer."""
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = set(get_keys_to_not_convert(model.model))
    linears = [path for path, module in model.model.named_modules() if isinstance(module, nn.Linear)]
    return frozenset(f"{path}.weight" for path in linears if path not in kept)
