"""What this machine has, found without torch: GPUs, cores, and what DeepSpeed's compiled parts need."""

import os
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

DEVICES = Path("/dev")
"""Where the kernel shows them."""


def count_gpus() -> int:
    """CUDA devices that a process would see: those under /dev, less what CUDA_VISIBLE_DEVICES hides."""
    present = sum(path.name.removeprefix("nvidia").isdecimal() for path in DEVICES.glob("nvidia[0-9]*"))
    present = present or int((DEVICES / "dxg").exists())  # WSL shows one device for all GPUs
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, _listed(visible, present))


def _listed(visible: str, present: int) -> int:
    """Devices that CUDA takes from the list, which ends at the first number that names none; other ids count."""
    count = 0
    for entry in (part.strip() for part in visible.split(",")):
        is_number = entry.removeprefix("-").isdecimal()
        if not entry or (is_number and not 0 <= int(entry) < present):
            break
        count += 1
    return count


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def missing_for_cpu_adam() -> str | None:
    """What DeepSpeed's CPU Adam lacks, in words, or None; it comes compiled, or is compiled at its first use.

    Beside a GPU too DeepSpeed (0.19.8) compiles it for the CPU alone.
    """
    return _missing_for_op("adam", "cpu_adam_op", on_gpu=False)


def missing_for_async_io(*, on_gpu: bool) -> str | None:
    """What DeepSpeed's reader and writer of NVMe drives lacks, in words, or None."""
    missing = _missing_for_op("aio", "async_io_op", on_gpu=on_gpu)
    if missing is None and not _prebuilt("aio", "async_io_op") and not _links_libaio():
        missing = "libaio with its headers (Debian and Ubuntu: apt install libaio-dev)"
    return missing


def _missing_for_op(folder: str, op: str, *, on_gpu: bool) -> str | None:
    if _prebuilt(folder, op):
        return None
    if shutil.which(_compiler()[0]) is None:
        return "a C++ compiler (Debian and Ubuntu: apt install g++)"
    if shutil.which("ninja") is None:
        return "ninja on the PATH (pip install ninja)"
    if on_gpu and not _has_nvcc():  # beside a GPU DeepSpeed compiles all of its parts against CUDA
        return "the CUDA toolkit (nvcc); install the version that torch was built with, or set CUDA_HOME"
    return None


def _prebuilt(folder: str, op: str) -> bool:
    """Whether DeepSpeed was installed with this part compiled (DS_BUILD_OPS)."""
    spec = find_spec("deepspeed")
    places = spec.submodule_search_locations if spec else None
    return any(any((Path(place) / "ops" / folder).glob(f"{op}*.so")) for place in places or ())


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]  # as torch.utils.cpp_extension takes it


def _has_nvcc() -> bool:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return (Path(home) / "bin" / "nvcc").exists() or shutil.which("nvcc") is not None


def _links_libaio() -> bool:
    """Whether a program with libaio's `io_submit` links, which is how DeepSpeed decides too."""
    flags = shlex.split(os.environ.get("CFLAGS", "")), shlex.split(os.environ.get("LDFLAGS", ""))
    command = [*_compiler(), "-x", "c++", "-", "-o", "/dev/null", *flags[0], *flags[1], "-laio"]
    program = "#include <libaio.h>\nint main() { return io_submit(0, 0, 0); }"
    return subprocess.run(command, input=program, capture_output=True, text=True, check=False).returncode == 0
