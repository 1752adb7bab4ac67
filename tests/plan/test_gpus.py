"""GPUs by name."""

import pytest

from ftune.core.errors import LaunchError
from ftune.plan.gpus import ALIASES, GPUS, find_gpu, gpu_of_device

GIB = 2**30


@pytest.mark.parametrize("name", [*GPUS, *ALIASES])
def test_every_name_is_found_however_it_is_written(name: str) -> None:
    gpu = find_gpu(name)
    assert gpu in GPUS.values()
    assert find_gpu(f" {name.upper()} ") == find_gpu(name.replace("-", "_")) == find_gpu(name.replace("-", "")) == gpu


@pytest.mark.parametrize(
    ("asked", "size"), [("24GiB", 24 * GIB), ("24 gb", 24 * 10**9), ("80G", 80 * GIB), ("47.5GiB", int(47.5 * GIB))]
)
def test_a_size_is_a_gpu_of_unknown_speed(asked: str, size: int) -> None:
    gpu = find_gpu(asked)
    assert (gpu.usable, gpu.flops) == (size, None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("h1000", "did you mean 'h100'"),
        ("rtx4900", "did you mean 'rtx4090'"),
        ("abacus", "h100"),
        ("", "24GiB"),
        ("0GiB", "1GiB to 4096GiB"),
        ("9999999GiB", "1GiB to 4096GiB"),
        ("-5GiB", "no GPU '-5GiB'"),
    ],
)
def test_an_unknown_one_is_refused_with_the_list(asked: str, said: str) -> None:
    with pytest.raises(LaunchError, match="--gpu") as caught:
        find_gpu(asked)
    assert said in str(caught.value)
    assert "0GiB" in asked or "h200" in str(caught.value) or "9999999" in asked


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA Quadro K620", None),
    ],
)
def test_a_driver_s_name_is_known(device: str, name: str | None) -> None:
    assert gpu_of_device(device) == (GPUS[name] if name else None)


def test_memory_and_speed_are_of_the_right_size() -> None:
    for gpu in GPUS.values():
        assert 10 * GIB < gpu.usable < 300 * GIB
        assert gpu.flops is not None
        assert 5e13 < gpu.flops < 3e15
        assert gpu.bandwidth is not None
        assert 2e11 < gpu.bandwidth < 1e13
