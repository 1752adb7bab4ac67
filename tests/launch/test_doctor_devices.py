"""What `ftune doctor` says about GPUs, packages and kernels, by facts about them."""

from dataclasses import replace

import pytest

from ftune.launch.doctor import deepspeed_ops, gpus, kernels, packages, probe
from ftune.launch.doctor.finding import GIB
from tests.launch.findings import CPU_BUILD, CUDA, H100, MACHINE, levels, worst


def test_a_sound_machine_has_no_faults() -> None:
    found = list(gpus.judge(MACHINE))
    assert set(levels(found)) == {"ok"}
    assert "GPU 1: NVIDIA H100, 80 GiB, compute capability 9.0, 79 GiB free" in [finding.text for finding in found]


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (replace(MACHINE, torch=CPU_BUILD, gpus=[]), "error", "2 GPUs here, but torch 2.13.0+cpu was built for CPUs"),
        (replace(MACHINE, gpus=[], visible=""), "warning", "CUDA_VISIBLE_DEVICES='' hides the 2 GPUs"),
        (replace(MACHINE, gpus=[], torch={**CUDA, "trouble": "error 802"}), "error", "cannot use them: error 802"),
        (replace(MACHINE, torch={**CUDA, "driver_cuda": "12.8"}), "error", "knows CUDA 12.8 at most, torch was built"),
        (replace(MACHINE, torch={**CUDA, "cuda": "13.2"}), "warning", "driver 590.44.01 knows CUDA 13.1"),
        (replace(MACHINE, torch={**CUDA, "nccl": None}), "error", "has no NCCL"),
        (replace(MACHINE, gpus=[{**H100, "free": 30 * GIB}]), "warning", "only 30 GiB free"),
        (replace(MACHINE, gpus=[{**H100, "free": None, "trouble": "busy"}]), "error", "cannot be used: busy"),
        (replace(MACHINE, gpus=[{**H100, "capability": [12, 0]}]), "error", "no kernels for it, only for sm_80"),
        (replace(MACHINE, gpus=[H100, {**H100, "name": "NVIDIA A100"}]), "warning", "not alike"),
        (replace(MACHINE, switches={"NCCL_P2P_DISABLE": "1"}), "warning", "NCCL_P2P_DISABLE=1 is set"),
    ],
)
def test_what_keeps_gpus_from_working(facts: gpus.GpuFacts, level: str, said: str) -> None:
    found = worst(gpus.judge(facts))
    assert found.level == level
    assert said in found.text
    assert found.remedy


def test_an_old_gpu_does_bf16_slowly() -> None:
    t4 = {**H100, "name": "Tesla T4", "capability": [7, 5]}
    found = worst(gpus.judge(gpus.GpuFacts({**CUDA, "architectures": ["sm_75"]}, [t4], devices=1)))
    assert (found.level, found.remedy) == ("warning", "set model.dtype: fp16")


@pytest.mark.parametrize(
    ("capability", "architectures", "works"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 5), ["compute_80"], False),
        ((10, 0), ["sm_100a"], True),
        ((9, 4), ["gfx942"], True),
    ],
)
def test_which_kernels_run_on_which_gpu(capability: tuple[int, int], architectures: list[str], works: bool) -> None:
    assert gpus.has_kernels(*capability, architectures) is works


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("something else", None),
    ],
)
def test_the_driver_says_its_version(text: str, version: str | None) -> None:
    assert gpus.driver_version(text) == version


def test_packages_against_their_ranges() -> None:
    required = ["torch>=2.11", "trl>=1.16", "peft>=0.21", "deepspeed>=0.19; extra == 'deepspeed'", "vllm; extra == 'v'"]
    installed = {"torch": "2.13.0+cu130", "trl": "1.2", "peft": None, "deepspeed": "0.18.1", "vllm": None}
    found = list(packages.judge(packages.PackageFacts(required, installed)))
    assert [(one.level, one.text) for one in found] == [
        ("error", "trl 1.2 is installed, ftune asks for >=1.16"),
        ("error", "peft is not installed"),
        ("warning", "deepspeed 0.18.1 is installed, ftune asks for >=0.19"),
        ("ok", "torch 2.13.0+cu130"),
    ]
    assert found[0].remedy == "pip install 'trl>=1.16'"


def test_a_package_of_two_extras_is_listed_once() -> None:
    required = ["requests; extra == 'a'", "torch", "requests>=2; extra == 'b'"]
    (found,) = packages.judge(packages.PackageFacts(required, {"requests": "2.34.2", "torch": "2.13.0"}))
    assert found.text == "requests 2.34.2, torch 2.13.0"


DEEPSPEED = deepspeed_ops.OpsFacts("0.19.8", nvcc="13.0", torch_cuda="13.0", gpus=True)


@pytest.mark.parametrize(
    ("facts", "needed", "level", "said"),
    [
        (replace(DEEPSPEED, missing={"cpu_adam": "a C++ compiler"}), {}, "warning", "cpu_adam"),
        (replace(DEEPSPEED, missing={"cpu_adam": "x"}), {"cpu_adam": "backend.offload"}, "error", "backend.offload"),
        (replace(DEEPSPEED, nvcc="12.8", built=["async_io"]), {}, "warning", "fused_adam"),
        (replace(DEEPSPEED, nvcc=None, built=["fused_adam"]), {"async_io": "the key"}, "error", "the key needs it"),
        (replace(DEEPSPEED, locks={"/x/cpu_adam/lock": 3600.0}), {}, "warning", "60 minutes old"),
        (replace(DEEPSPEED, ninja_beside="/venv/bin"), {}, "warning", "/venv/bin, which is not in PATH"),
        (deepspeed_ops.OpsFacts(None), {"cpu_adam": "the key"}, "error", "not installed, and the key needs it"),
    ],
)
def test_deepspeed_and_its_operations(
    facts: deepspeed_ops.OpsFacts, needed: dict[str, str], level: str, said: str
) -> None:
    found = worst(deepspeed_ops.judge(facts, needed))
    assert found.level == level
    assert said in found.text
    assert found.remedy


def test_deepspeed_is_not_asked_for() -> None:
    assert levels(deepspeed_ops.judge(deepspeed_ops.OpsFacts(None), {})) == ["ok"]
    young = replace(DEEPSPEED, locks={"/x/cpu_adam/lock": 30.0})
    assert set(levels(deepspeed_ops.judge(young, {"cpu_adam": "the key"}))) == {"ok"}


@pytest.mark.parametrize(("nvcc", "fits"), [("12.4", True), ("12.8", True), ("13.0", False), ("11.8", False)])
def test_nvcc_fits_torch(nvcc: str, fits: bool) -> None:
    assert deepspeed_ops.fits(nvcc, "12.8") is fits
    assert deepspeed_ops.fits("13.0", "13.0")
    assert not deepspeed_ops.fits("13.1", "13.0")


@pytest.mark.parametrize(
    ("known", "wanted", "chosen"),
    [
        (["126", "128", "130"], "12.8", "128"),
        (["126", "128", "130"], "12.9", "128"),
        (["126", "128"], "12.1", "126"),
        (["126", "128"], "13.0", None),
    ],
)
def test_bitsandbytes_takes_the_nearest_library(known: list[str], wanted: str, chosen: str | None) -> None:
    assert probe.chosen_library(known, wanted, 2) == chosen


def test_bitsandbytes_matters_where_it_is_asked_for() -> None:
    none = {"library": None, "wanted": "cuda 14.0", "trouble": "", "known": ["130"]}
    needed = worst(kernels.bitsandbytes("0.50", none, gpus=True, wanted_by="model.quantization: nf4"))
    assert needed.level == "error"
    assert "no library for cuda 14.0, only for 130" in needed.text
    assert worst(kernels.bitsandbytes("0.50", none, gpus=True, wanted_by="")).level == "warning"
    assert worst(kernels.bitsandbytes(None, None, gpus=True, wanted_by="the key")).level == "error"
    assert levels(kernels.bitsandbytes(None, None, gpus=False, wanted_by="")) == ["ok"]


@pytest.mark.parametrize(
    ("choice", "flash", "capabilities", "level", "said"),
    [
        ("auto", None, [], "ok", "sdpa on the CPU"),
        ("auto", None, [[9, 0]], "ok", "flash kernels for bf16"),
        ("sdpa", None, [[9, 0], [7, 5]], "ok", "memory-efficient"),
        ("eager", None, [[9, 0]], "ok", "eager"),
        ("auto", {"trouble": "undefined symbol"}, [[9, 0]], "warning", "undefined symbol"),
        ("flash_attention_2", None, [[9, 0]], "error", "not installed"),
        ("flash_attention_2", {"trouble": ""}, [[7, 5]], "error", "8.0"),
        ("flash_attention_2", {"trouble": "undefined symbol"}, [[9, 0]], "error", "undefined symbol"),
        ("flash_attention_2", {"trouble": ""}, [[9, 0]], "ok", "flash-attn package"),
    ],
)
def test_the_attention_that_is_used(
    choice: str, flash: dict[str, str] | None, capabilities: list[list[int]], level: str, said: str
) -> None:
    found = next(iter(kernels.attention(choice, flash, capabilities)))
    assert found.level == level
    assert said in found.text
