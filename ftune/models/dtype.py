"""The recipe's short dtype names and what they mean on a device."""

from typing import Literal

Dtype = Literal["auto", "bf16", "fp16", "fp32"]

_TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def torch_name(dtype: str) -> str:
    """The name of the torch dtype: `bf16` -> `bfloat16`."""
    return _TORCH_NAMES[dtype]


def resolve_dtype(dtype: Dtype, *, on_gpu: bool) -> Literal["bf16", "fp16", "fp32"]:
    """What `auto` means: bf16 on a GPU that computes in it, fp16 on an older one, fp32 on the CPU."""
    if dtype != "auto":
        return dtype
    if not on_gpu:
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
