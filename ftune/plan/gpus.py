"""GPUs by name: what a run can use of their memory, how fast they multiply and read. Vendors' data sheets.

`usable` is what the driver gives to a process, a little less than the name says. `flops` are dense bf16 products with
sums in fp32, without sparsity (fp16 where there is no bf16). They are what a share of the peak is taken of.
"""

import re
from dataclasses import dataclass

from ftune.core.errors import LaunchError
from ftune.core.suggest import did_you_mean

GIB = 2**30
SMALLEST = 1
LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of device."""

    name: str
    usable: int
    """Bytes."""
    flops: float | None
    """Products and sums a second; None where only the memory is known."""
    bandwidth: float | None
    """Bytes a second of its memory."""


def _gpu(name: str, usable_gib: float, teraflops: float, gigabytes_per_s: float) -> Gpu:
    return Gpu(name, int(usable_gib * GIB), teraflops * 1e12, gigabytes_per_s * 1e9)


GPUS: dict[str, Gpu] = {
    "h100": _gpu("NVIDIA H100 SXM 80 GB", 79.1, 989.4, 3350),
    "h100-pcie": _gpu("NVIDIA H100 PCIe 80 GB", 79.1, 756, 2000),
    "h200": _gpu("NVIDIA H200", 139.8, 989.4, 4800),
    "b200": _gpu("NVIDIA B200", 178.3, 2250, 8000),
    "a100-40": _gpu("NVIDIA A100 40 GB", 39.4, 312, 1555),
    "a100-80": _gpu("NVIDIA A100 80 GB", 79.1, 312, 2039),
    "l40s": _gpu("NVIDIA L40S", 44.4, 362, 864),
    "l4": _gpu("NVIDIA L4", 22.0, 121, 300),
    "a10": _gpu("NVIDIA A10", 22.0, 125, 600),
    "t4": _gpu("NVIDIA T4", 14.6, 65, 320),
    "v100-16": _gpu("NVIDIA V100 16 GB", 15.7, 125, 900),
    "v100-32": _gpu("NVIDIA V100 32 GB", 31.7, 125, 900),
    "rtx3090": _gpu("NVIDIA GeForce RTX 3090", 23.6, 71, 936),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", 23.6, 165.2, 1008),
    "rtx5090": _gpu("NVIDIA GeForce RTX 5090", 31.3, 209.5, 1792),
    "rtx6000-ada": _gpu("NVIDIA RTX 6000 Ada", 47.4, 364.2, 960),
    "a6000": _gpu("NVIDIA RTX A6000", 47.4, 154.8, 768),
    "mi250x": _gpu("AMD Instinct MI250X, one of its two dies", 63.9, 191.5, 1638),
    "mi300x": _gpu("AMD Instinct MI300X", 191.9, 1307.4, 5300),
    "mi325x": _gpu("AMD Instinct MI325X", 255.9, 1307.4, 6000),
}
"""By the names that `--gpu` takes."""

ALIASES = {"a100": "a100-80", "v100": "v100-32", "3090": "rtx3090", "4090": "rtx4090", "5090": "rtx5090"}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name, or one with so much memory (`24GiB`). Raises LaunchError for another one."""
    asked = re.sub(r"[\s_]+", "-", name.strip().lower())
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)-?(gib|gb|g)", asked):
        number = float(size[1]) * (1e9 if size[2] == "gb" else GIB)
        if not SMALLEST * GIB <= number <= LARGEST * GIB:
            raise LaunchError(f"--gpu: {name} is no GPU's memory; give {SMALLEST}GiB to {LARGEST}GiB")
        return Gpu(f"GPU with {name.strip()}", int(number), None, None)
    asked = ALIASES.get(asked, asked)
    known = {key.replace("-", ""): key for key in GPUS}
    key = known.get(asked.replace("-", "").removeprefix("nvidia").removeprefix("geforce"))
    if key is None:
        hint = did_you_mean(asked, (*GPUS, *ALIASES))
        listed = "" if hint.startswith("; known") else f"; known: {', '.join(GPUS)}"
        raise LaunchError(f"--gpu: no GPU '{name}' in the catalogue{hint}{listed}; or give its memory, as in 24GiB")
    return GPUS[key]


def gpu_of_device(device: str) -> Gpu | None:
    """The entry of a device by the name that its driver gives it, such as `NVIDIA H100 80GB HBM3`; None if unknown."""
    words = re.sub(r"[^a-z0-9]+", "", device.lower())
    if "a100" in words:
        return GPUS["a100-80" if "80gb" in words else "a100-40"]
    if "v100" in words:
        return GPUS["v100-32" if "32gb" in words else "v100-16"]
    if "h100" in words:
        return GPUS["h100-pcie" if "pcie" in words else "h100"]
    found = [key for key in GPUS if key.replace("-", "") in words or key.replace("-ada", "adageneration") in words]
    return GPUS[max(found, key=len)] if found else None
