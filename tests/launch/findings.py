"""A sound machine with GPUs, by facts about it, and what to look at in findings."""

from collections.abc import Iterable

from ftune.launch.doctor import gpus
from ftune.launch.doctor.finding import GIB, Finding

H100 = {"name": "NVIDIA H100", "capability": [9, 0], "bytes": 80 * GIB, "free": 79 * GIB, "trouble": ""}
CUDA = {
    "version": "2.13.0+cu130",
    "cuda": "13.0",
    "hip": None,
    "available": True,
    "trouble": "",
    "driver_cuda": "13.1",
    "architectures": ["sm_80", "sm_90", "sm_100"],
    "nccl": "2.28.3",
}
CPU_BUILD = {**CUDA, "version": "2.13.0+cpu", "cuda": None, "available": False, "driver_cuda": None, "nccl": None}
MACHINE = gpus.GpuFacts(CUDA, [H100, H100], devices=2, driver="590.44.01")


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def worst(findings: Iterable[Finding]) -> Finding:
    """The one finding that is not fine; there must be one alone."""
    (found,) = [finding for finding in findings if finding.level != "ok"]
    return found
