"""What is refused because this machine, or what is installed on it, cannot do it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.backends import machine
from ftune.backends.base import Backend
from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.single import Single
from ftune.backends.zero import Offload, Zero

Gpus = Callable[[int], None]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """A machine that shows so many GPUs, and has two cores."""
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(machine, "DEVICES", folder)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def show(count: int) -> None:
        for name in ["nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(count))]:
            (folder / name).touch()

    return show


def said(backend: Backend) -> dict[str, str]:
    return {".".join(map(str, place)): message for place, message in backend.all_faults()}


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("0,1", 2), ("3", 1), ("0,9,1", 1), ("GPU-8c1e,GPU-77aa", 2), ("0, 2", 2)],
)
def test_gpus_are_counted_as_cuda_does(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    gpus(4)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.count_gpus() == count


def test_no_more_processes_than_gpus(gpus: Gpus) -> None:
    gpus(4)
    assert said(Ddp(num_processes=4)) == {}
    assert "5 processes for 4 GPUs" in said(Ddp(num_processes=5))["num_processes"]


def test_no_more_processes_than_cores(gpus: Gpus) -> None:
    gpus(0)
    assert said(Fsdp(num_processes=2)) == {}
    assert "3 processes for 2 cores" in said(Fsdp(num_processes=3))["num_processes"]


@pytest.mark.parametrize("backend", [Single(device="cuda"), Ddp(device="cuda")])
def test_a_gpu_that_is_not_there(gpus: Gpus, backend: Backend) -> None:
    gpus(0)
    assert "no CUDA device" in said(backend)["device"]
    gpus(1)
    assert said(backend) == {}


def test_deepspeed_is_not_installed(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftune.backends.zero.find_spec", lambda name: None)
    assert "pip install 'ftune[deepspeed]'" in said(Zero(offload=Offload(optimizer="cpu")))["type"]


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave only these programs on the PATH."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 0\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize(("there", "missing"), [((), "apt install g++"), (("c++",), "pip install ninja")])
def test_cpu_adam_cannot_be_compiled(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], missing: str
) -> None:
    tools(tmp_path / "bin", monkeypatch, *there)
    assert missing in said(Zero(offload=Offload(optimizer="cpu")))["offload.optimizer"]
    assert said(Zero()) == {}


def test_cpu_adam_beside_a_gpu_needs_no_nvcc(gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path / "bin", monkeypatch, "c++", "ninja")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    gpus(1)
    assert said(Zero(offload=Offload(optimizer="cpu"))) == {}


def test_cpu_adam_that_came_compiled(gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path / "bin", monkeypatch)
    (tmp_path / "deepspeed" / "ops" / "adam").mkdir(parents=True)
    (tmp_path / "deepspeed" / "__init__.py").touch()
    (tmp_path / "deepspeed" / "ops" / "adam" / "cpu_adam_op.cpython-311-x86_64-linux-gnu.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "deepspeed", raising=False)
    assert said(Zero(offload=Offload(optimizer="cpu"))) == {}


def test_a_drive_without_libaio(gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offload = Offload(parameters="nvme", nvme_path=str(tmp_path))
    tools(tmp_path / "bin", monkeypatch, "c++", "ninja")  # this compiler takes any program
    assert said(Zero(stage=3, offload=offload)) == {}
    (tmp_path / "bin" / "c++").write_text("#!/bin/sh\nexit 1\n")
    assert "libaio-dev" in said(Zero(stage=3, offload=offload))["offload.nvme_path"]


@pytest.mark.parametrize(("name", "problem"), [("missing", "is not there"), ("file", "is not a folder")])
def test_a_drive_that_is_no_folder(gpus: Gpus, tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").touch()
    offload = Offload(optimizer="nvme", nvme_path=str(tmp_path / name))
    assert problem in dict(offload.faults())["nvme_path",]
