"""The GPU of this machine, as nvidia-smi tells it."""

from pathlib import Path

import pytest

from ftune.backends import machine
from ftune.plan.gpus import GPUS
from ftune.recipes.runs.plan_gpu import COMMON, WITHOUT_BF16, gpu_here, has_bf16

GIB = 2**30


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one GPU, whose nvidia-smi prints what the test writes into `said`."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/said\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "said"


@pytest.mark.parametrize(
    ("said", "name", "usable"),
    [
        ("NVIDIA H100 80GB HBM3, 81559\n", GPUS["h100"].name, GPUS["h100"].usable),
        ("NVIDIA H100 80GB HBM3, 20480\n" * 2, GPUS["h100"].name, 20 * GIB),
        ("Quadro of Oz, 6144\n", "Quadro of Oz", 6 * GIB),
    ],
)
def test_what_it_says(smi: Path, said: str, name: str, usable: int) -> None:
    smi.write_text(said)
    found = gpu_here()
    assert found is not None
    assert (found.name, found.usable) == (name, usable)


@pytest.mark.parametrize("said", ["", "No devices were found\n", "NVIDIA H100, [N/A]\n"])
def test_without_an_answer_there_is_none(smi: Path, said: str) -> None:
    smi.write_text(said)
    assert gpu_here() is None


def test_hidden_gpus_are_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi.write_text("NVIDIA H100 80GB HBM3, 81559\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_here() is None


def test_names_are_those_of_the_catalogue() -> None:
    assert {*COMMON, *WITHOUT_BF16} <= set(GPUS)
    assert [has_bf16(GPUS[name]) for name in ("h100", "t4", "v100-16")] == [True, False, False]
