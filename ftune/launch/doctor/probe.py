"""What only torch and compiled packages can tell, asked of a process of its own.

A broken driver can hang or crash whoever touches it; then the questions that were answered before still count, and
the rest of the examination goes on. The process also gives back the GPU memory that its look has taken.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

LIMIT_S = 90.0
"""A first import of torch from a busy network file system takes this long."""

Facts = dict[str, Any]


def ask(limit_s: float = LIMIT_S) -> Facts:
    """The answers of `main` by subject; what was not answered is missing, and `ended` says in words why.

    A subject whose question raised has `{"failed": "Type: message"}`.
    """
    # the program's own folders come first in sys.path: also where ftune runs from its sources
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; import {__name__} as p; p.main()"]
    quiet = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    ended = ""
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, env=quiet, check=False)
        out = done.stdout
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            ended = f"the process that looks at torch ended with {how}: {said[-1] if said else 'it said nothing'}"
    except subprocess.TimeoutExpired as late:
        out, ended = late.stdout or b"", f"torch or the GPU driver gave no answer within {limit_s:g} s"
    answers: Facts = {"ended": ended}
    for line in out.decode(errors="replace").splitlines():
        if line.startswith("{"):
            answers |= json.loads(line)
    return answers


def main() -> None:
    """Answer each question with a line of JSON, as soon as it is known."""
    questions: dict[str, Callable[[], object]] = {
        "torch": _torch,
        "gpus": _gpus,
        "bitsandbytes": _bitsandbytes,
        "flash_attn": _flash_attn,
    }
    for name, question in questions.items():
        try:
            answer = question()
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        print(json.dumps({name: answer}), flush=True)


def _torch() -> Facts:
    """How torch was built, and what the driver says to it."""
    import torch

    facts: Facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "available": False,
        "trouble": "",
        "driver_cuda": None,
        "architectures": [],
        "nccl": None,
    }
    if torch.version.cuda is None and torch.version.hip is None:
        return facts
    private: Any = torch._C
    cuda: Any = torch.cuda  # `init` and `nccl` have no types
    if torch.version.cuda:
        asked = getattr(private, "_cuda_getDriverVersion", None)  # torch 2.11 has none
        number = int(asked()) if asked else 0  # 12080 is CUDA 12.8; 0 without a driver
        facts["driver_cuda"] = f"{number // 1000}.{number % 1000 // 10}" if number else None
    try:
        cuda.init()
        facts["available"] = torch.cuda.is_available()
    except (RuntimeError, AssertionError) as error:
        facts["trouble"] = str(error).splitlines()[0]
    facts["architectures"] = torch.cuda.get_arch_list()
    if torch.distributed.is_nccl_available():
        facts["nccl"] = ".".join(map(str, cuda.nccl.version()))
    return facts


def _gpus() -> list[Facts]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Facts:
    """One GPU: name, compute capability, bytes of memory in all and free (None where it cannot be told)."""
    import torch

    found = torch.cuda.get_device_properties(index)
    facts: Facts = {"name": found.name, "capability": [found.major, found.minor], "bytes": found.total_memory}
    try:
        return {**facts, "free": torch.cuda.mem_get_info(index)[0], "trouble": ""}
    except RuntimeError as error:  # in exclusive use by another process, or broken
        return {**facts, "free": None, "trouble": str(error).splitlines()[0]}


def _bitsandbytes() -> Facts | None:
    """Which of its libraries bitsandbytes would load here, and whether that loads; None where it is not installed.

    The package itself is not imported, which takes seconds; the choice among the libraries is its own (0.48 to 0.50):
    the version of torch's CUDA, else the next lower one of the same major version, else the next higher.
    """
    import ctypes
    from pathlib import Path

    import torch

    spec = find_spec("bitsandbytes")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    kind, wanted = ("rocm", torch.version.hip) if torch.version.hip else ("cuda", torch.version.cuda)
    number = None
    if wanted and torch.cuda.is_available():
        known = [path.stem.partition(kind)[2] for path in folder.glob(f"libbitsandbytes_{kind}*.so")]
        given = os.environ.get(f"BNB_{kind.upper()}_VERSION")
        number = given or chosen_library(known, wanted, 1 if kind == "rocm" else 2)
        if number is None:
            return {"library": None, "wanted": f"{kind} {wanted}", "trouble": "", "known": sorted(known)}
    library = f"libbitsandbytes_{kind}{number}.so" if number else "libbitsandbytes_cpu.so"
    trouble = ""
    try:
        ctypes.CDLL(str(folder / library))
    except OSError as error:
        trouble = str(error).splitlines()[0]
    return {"library": library, "wanted": f"{kind} {wanted}" if number else "cpu", "trouble": trouble, "known": []}


def chosen_library(known: list[str], wanted: str, major_digits: int) -> str | None:
    """Of versions as in `130` (13.0), the one for CUDA or ROCm `wanted`, as in `13.0.1`; None if no major fits."""
    versions = {(int(name[:major_digits]), int(name[major_digits:])): name for name in known if name.isdecimal()}
    parts = wanted.split(".")
    target = (int(parts[0]), int(parts[1]))
    same = sorted(version for version in versions if version[0] == target[0])
    lower = [version for version in same if version <= target]
    if not same:
        return None
    return versions[lower[-1] if lower else same[0]]


def _flash_attn() -> Facts | None:
    """Whether the compiled part of flash-attn loads; None where it is not installed."""
    from importlib import import_module

    if find_spec("flash_attn") is None:
        return None
    try:
        import_module("flash_attn_2_cuda")
    except (ImportError, OSError) as error:
        return {"trouble": str(error).splitlines()[0]}
    return {"trouble": ""}
