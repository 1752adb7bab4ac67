"""DeepSpeed: which of its compiled operations are there, and which can be built when they are first used.

DeepSpeed itself is not imported, which takes seconds and prints.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ftune.backends.machine import missing_for_async_io, missing_for_cpu_adam
from ftune.core.paths import user_cache
from ftune.launch.doctor.finding import Finding, error, ok, warning

OPS = {
    "cpu_adam": "AdamW of offloaded optimizer states",
    "async_io": "offload to NVMe",
    "fused_adam": "DeepSpeed's own AdamW on GPUs",
}
"""The operations that DeepSpeed's settings lead to, and what each is for."""

BUILD_S = 600.0
"""No build takes longer."""

CUDA_OPS = ("async_io", "fused_adam")
"""Those that are compiled against CUDA where torch is."""


@dataclass(frozen=True)
class OpsFacts:
    """What a build would find here."""

    version: str | None
    """Of DeepSpeed; None where it is not installed."""
    built: Sequence[str] = ()
    """Operations that came compiled with the package, or were compiled here before."""
    missing: Mapping[str, str | None] = field(default_factory=dict)
    """What an operation lacks to be built, in words with the remedy, or None."""
    ninja_beside: str = ""
    """Folder of a ninja that stands beside this Python but not in PATH; empty where there is none."""
    nvcc: str | None = None
    """CUDA version of the nvcc that a build would take."""
    cuda_home: str | None = None
    """CUDA_HOME as it is set."""
    torch_cuda: str | None = None
    """The CUDA version that torch was built for; None for a CPU build."""
    gpus: bool = False
    locks: Mapping[str, float] = field(default_factory=dict)
    """Lock files of builds and their age in seconds: one that a killed build left makes the next wait for ever."""


def gather(version: str | None, torch_cuda: str | None, *, gpus: bool) -> OpsFacts:
    """Look for DeepSpeed, its libraries, and for what a build needs."""
    spec = find_spec("deepspeed") if version else None
    if version is None or spec is None or not spec.submodule_search_locations:
        return OpsFacts(None)
    package = Path(next(iter(spec.submodule_search_locations)))
    builds = _build_folder(torch_cuda)
    locks = list(builds.glob("*/lock"))
    being_built = {path.parent.name for path in locks}
    built_here = {path.parent.name for path in builds.glob("*/*.so")} - being_built
    beside = Path(sys.executable).with_name("ninja")
    return OpsFacts(
        version=version,
        built=sorted({*_prebuilt(package), *built_here}),
        missing={
            "cpu_adam": missing_for_cpu_adam(),
            "async_io": missing_for_async_io(on_gpu=gpus),
            "fused_adam": None,
        },
        ninja_beside=str(beside.parent) if beside.is_file() and shutil.which("ninja") is None else "",
        nvcc=_nvcc(),
        cuda_home=os.environ.get("CUDA_HOME"),
        torch_cuda=torch_cuda,
        gpus=gpus,
        locks={str(path): time.time() - path.stat().st_mtime for path in locks},
    )


def judge(facts: OpsFacts, needed: Mapping[str, str]) -> Iterator[Finding]:
    """`needed`: the operations that the recipe leads to, each with the key that asks for it; a lack is an error then.

    An operation that no recipe asked for is a warning at most.
    """
    if facts.version is None:
        if needed:
            key = next(iter(needed.values()))
            yield error("deepspeed", f"not installed, and {key} needs it", "pip install 'ftune[deepspeed]'")
        else:
            yield ok("deepspeed", "not installed; only backend.type: zero needs it")
        return
    yield ok("deepspeed", f"DeepSpeed {facts.version}")
    for lock, age_s in facts.locks.items():
        if age_s > BUILD_S:
            yield warning(
                "deepspeed",
                f"{lock} is {age_s / 60:.0f} minutes old: a build was killed, and the next waits for it for ever",
                f"if nothing is being built: rm {lock}",
            )
        else:
            yield ok("deepspeed", f"an operation is being built right now: {lock}")
    if facts.ninja_beside:
        yield warning(
            "deepspeed",
            f"ninja is installed in {facts.ninja_beside}, which is not in PATH: operations cannot be built",
            f"export PATH={facts.ninja_beside}:$PATH",
        )
    for op, purpose in OPS.items():
        if op == "fused_adam" and not facts.gpus:
            continue
        name, lack = f"{op} ({purpose})", _lack(op, facts)
        if op in facts.built:
            yield ok("deepspeed", f"{name}: built")
        elif lack is None:
            yield ok("deepspeed", f"{name}: is built when a run first uses it, in about a minute")
        elif op in needed:
            yield error("deepspeed", f"{name}: cannot be built, and {needed[op]} needs it", lack)
        else:
            yield warning("deepspeed", f"{name}: cannot be built", lack)


def _lack(op: str, facts: OpsFacts) -> str | None:
    """What an operation lacks to be built, in words; None where nothing does."""
    if lack := facts.missing.get(op):
        return f"get {lack}"
    if op not in CUDA_OPS or facts.torch_cuda is None:
        return None
    if facts.nvcc is None:
        where = f"CUDA_HOME={facts.cuda_home} has none" if facts.cuda_home else "there is none"
        return f"get nvcc ({where}): install the CUDA toolkit {facts.torch_cuda} and set CUDA_HOME to it"
    if not fits(facts.nvcc, facts.torch_cuda):
        return (
            f"set CUDA_HOME to a CUDA toolkit {facts.torch_cuda}, as torch was built for; nvcc is of CUDA {facts.nvcc}"
        )
    return None


def fits(nvcc: str, torch_cuda: str) -> bool:
    """DeepSpeed's rule (0.19.8, `assert_no_cuda_mismatch`): the same version; within 11 and within 12 any minor one."""
    ours, theirs = nvcc.split(".")[:2], torch_cuda.split(".")[:2]
    return ours == theirs or (ours[0] == theirs[0] and ours[0] in ("11", "12"))


def _prebuilt(package: Path) -> list[str]:
    """The operations that a DeepSpeed wheel says it holds compiled."""
    stated = package / "git_version_info_installed.py"
    if not stated.is_file():
        return []
    match = re.search(r"^installed_ops\s*=\s*(\{.*\})", stated.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name, is_built in ast.literal_eval(match[1]).items() if is_built] if match else []


def _build_folder(torch_cuda: str | None) -> Path:
    """Where torch keeps the extensions that it builds (2.13, `_get_build_directory`): a folder a Python and CUDA."""
    if own := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(own)
    cache = user_cache()
    accelerator = f"cu{torch_cuda.replace('.', '')}" if torch_cuda else "cpu"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return cache / "torch_extensions" / f"{python}_{accelerator}"


def _nvcc() -> str | None:
    """CUDA version of the nvcc in CUDA_HOME, else in PATH, else in /usr/local/cuda: where torch looks, in its order."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    program = f"{home}/bin/nvcc" if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"release (\d+\.\d+)", said)
    return match[1] if match else None
