"""The machine and the versions behind a run: enough to repeat it, nothing that names its owner."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ftune import __version__

PACKAGES = [
    "ftune", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "safetensors", "numpy",
    "deepspeed", "bitsandbytes",
]  # fmt: skip


def environment() -> dict[str, Any]:
    """Python, platform, package versions, git revision of the working folder, processor, memory and GPUs.

    Imports none of the packages: GPUs are named only when torch is loaded already. Holds no host or user name, no
    path and no environment variable.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git(),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
    }


def _version(package: str) -> str | None:
    if package == "ftune":
        return __version__  # also right where ftune runs from its sources
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Revision of the repository around the working folder, and whether tracked files differ from it."""
    revision = _run_git("rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": bool(_run_git("status", "--porcelain", "--untracked-files=no"))}


def _run_git(*arguments: str) -> str | None:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True, env=quiet)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> dict[str, Any]:
    """The processor's name, and how many of its threads this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"model": next(names, platform.processor() or platform.machine()), "threads": usable}


def _gpus() -> list[str]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
