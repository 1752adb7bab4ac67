"""The ways to store a finished model in fewer bits, and what each needs."""

from importlib.util import find_spec
from typing import Literal

Kind = Literal["nf4", "int8", "fp8", "int4"]

PACKAGES = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "fp8": "torchao", "int4": "torchao"}
"""The package that writes a kind, and that whoever loads the folder needs too."""

EXTRAS = {"bitsandbytes": "quantization", "torchao": "torchao"}

INT4_CAPABILITY = (8, 0)
"""torch's product with weights of four bits begins with this compute capability (Ampere)."""


def quantization_fault(kind: Kind, device: str) -> str:
    """Why `kind` cannot be written on `device` (`cpu`, `cuda`, `cuda:1`, ...), and what to do; empty where it can."""
    package = PACKAGES[kind]
    if find_spec(package) is None:
        return f"'{kind}' needs the {package} package; pip install 'ftune[{EXTRAS[package]}]'"
    if kind == "int4" and not device.startswith("cuda"):
        # seen in torchao 0.18: on a CPU it has no layout of four bits that it can save
        return f"'int4' needs an NVIDIA GPU, to write and to load, and this is '{device}'; 'nf4' has four bits too"
    if kind == "int4":
        import torch

        found = torch.cuda.get_device_capability(device)
        if found < INT4_CAPABILITY:
            return f"'int4' needs a GPU of compute capability 8.0, and '{device}' has {found[0]}.{found[1]}; use 'nf4'"
    return ""
