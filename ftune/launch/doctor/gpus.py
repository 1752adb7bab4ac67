"""GPUs, their driver, and the CUDA that torch was built for."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftune.core.several import several
from ftune.launch.doctor.finding import Finding, error, ok, size, warning

SLOWING = ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE", "CUDA_LAUNCH_BLOCKING")
"""Switches that make training slow, left over from a search for a fault."""


@dataclass(frozen=True)
class GpuFacts:
    """What the device files, the driver and torch say."""

    torch: Mapping[str, Any]
    """The probe's answer about torch."""
    gpus: Sequence[Mapping[str, Any]] = ()
    devices: int = 0
    """GPUs that the kernel shows, `/dev/nvidia0` and on (also one behind WSL's `/dev/dxg`)."""
    driver: str | None = None
    """Version of the NVIDIA kernel driver."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Those of SLOWING that are on."""


def gather(torch: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]]) -> GpuFacts:
    """The probe's answers, and what can be seen without torch."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*"))) or int(Path("/dev/dxg").exists())
    stated = Path("/proc/driver/nvidia/version")
    driver = driver_version(stated.read_text()) if stated.is_file() else None
    switches = {name: os.environ[name] for name in SLOWING if os.environ.get(name, "0") not in ("", "0")}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return GpuFacts(torch, gpus, devices, driver, visible, switches)


def driver_version(stated: str) -> str | None:
    """The version in a text as `/proc/driver/nvidia/version`."""
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", stated)
    return match[1] if match else None


def judge(facts: GpuFacts) -> Iterator[Finding]:
    """What will compute here, and what keeps GPUs from doing so."""
    yield from _driver(facts)
    if not facts.gpus:
        yield from _none(facts)
        return
    for number, gpu in enumerate(facts.gpus):
        yield from _gpu(number, gpu, facts.torch.get("architectures", []))
    if len({(gpu["name"], gpu["bytes"]) for gpu in facts.gpus}) > 1:
        yield warning(
            "gpu",
            "the GPUs are not alike: the slowest and the smallest of them rule a step",
            "choose equal ones with CUDA_VISIBLE_DEVICES",
        )
    nccl = facts.torch.get("nccl")
    if nccl:
        yield ok("nccl", f"NCCL {nccl}")
    elif len(facts.gpus) > 1:
        yield error(
            "nccl", "this torch has no NCCL: several GPUs cannot work together", "install a torch build with it"
        )
    for name, value in facts.switches.items():
        yield warning("gpu", f"{name}={value} is set: it makes GPUs slow", f"unset {name}")


def _driver(facts: GpuFacts) -> Iterator[Finding]:
    """CUDA of torch against the newest that the driver knows."""
    built, known = facts.torch.get("cuda"), facts.torch.get("driver_cuda")
    name = f"driver {facts.driver}" if facts.driver else "the driver"
    if built is None or known is None:
        return
    torch, driver = _version(built), _version(known)
    if torch <= driver:
        yield ok("driver", f"{name} knows CUDA {known}; torch was built for {built}")
    elif torch[0] == driver[0]:
        yield warning(
            "driver",
            f"{name} knows CUDA {known}, torch was built for {built}: kernels that are compiled while running may fail",
            f"update the driver to one that knows CUDA {built}",
        )
    else:
        yield error(
            "driver",
            f"{name} knows CUDA {known} at most, torch was built for {built}",
            f"update the driver, or install a torch build for CUDA {known} or below",
        )


def _none(facts: GpuFacts) -> Iterator[Finding]:
    """Why there is no GPU."""
    if not facts.torch:
        return  # that torch said nothing is told by itself
    built = facts.torch.get("cuda") or facts.torch.get("hip")
    trouble = facts.torch.get("trouble", "")
    if facts.devices and not built:
        yield error(
            "gpu",
            f"{several(facts.devices, 'GPU')} here, but torch {facts.torch.get('version')} was built for CPUs alone",
            "install a CUDA build of torch: https://pytorch.org/get-started/locally",
        )
    elif facts.devices and facts.visible in ("", "-1", "NoDevFiles"):
        yield warning(
            "gpu",
            f"CUDA_VISIBLE_DEVICES='{facts.visible}' hides the {several(facts.devices, 'GPU')} of this machine",
            "unset CUDA_VISIBLE_DEVICES, or name those to use: CUDA_VISIBLE_DEVICES=0,1",
        )
    elif facts.devices:
        yield error(
            "gpu",
            f"{several(facts.devices, 'GPU')} here, but torch cannot use them: {trouble or 'it does not say why'}",
            "see what 'nvidia-smi' says; with NVSwitch, nvidia-fabricmanager must run",
        )
    else:
        yield ok("gpu", "none: training runs on the CPU")


def _gpu(number: int, gpu: Mapping[str, Any], architectures: Sequence[str]) -> Iterator[Finding]:
    major, minor = gpu["capability"]
    free = gpu["free"]
    told = f"GPU {number}: {gpu['name']}, {size(gpu['bytes'])}, compute capability {major}.{minor}"
    if free is None:
        yield error("gpu", f"{told}: it cannot be used: {gpu['trouble']}", "see what 'nvidia-smi' says")
    elif architectures and not has_kernels(major, minor, architectures):
        yield error(
            "gpu",
            f"{told}: this torch has no kernels for it, only for {', '.join(architectures)}",
            "install a torch build for this GPU: https://pytorch.org/get-started/locally",
        )
    elif free < 0.9 * gpu["bytes"]:
        yield warning("gpu", f"{told}; only {size(free)} free", "see who uses it: nvidia-smi")
    else:
        yield ok("gpu", f"{told}, {size(free)} free")
    if (major, minor) < (8, 0):
        yield warning(
            "gpu",
            f"GPU {number} computes bf16 slowly (compute capability {major}.{minor}, 8.0 can)",
            "set model.dtype: fp16",
        )


def has_kernels(major: int, minor: int, architectures: Sequence[str]) -> bool:
    """Whether code of `sm_XY` (the same major version, X.Y or below) or `compute_XY` (X.Y or below) is there.

    The rule of the CUDA programming guide, "Binary Compatibility" and "PTX Compatibility". AMD's names (`gfx942`) are
    not judged.
    """
    for name in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name)
        if match is None:
            return True
        kind, of_major, of_minor = match[1], int(match[2]), int(match[3])
        if kind == "sm" and of_major == major and of_minor <= minor:
            return True
        if kind == "compute" and (of_major, of_minor) <= (major, minor):
            return True
    return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
