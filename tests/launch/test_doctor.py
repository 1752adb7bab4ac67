"""What `ftune doctor` says about machines, by facts about them: most of these machines are not here."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftune.core.world import World
from ftune.launch.doctor import deepspeed_ops, gpus, kernels, limits, needs, packages, ports, probe, storage
from ftune.launch.doctor.checkup import examine, start
from ftune.launch.doctor.finding import GIB, Finding, ok, size, warning, without_names
from ftune.launch.doctor.show import as_json
from ftune.launch.doctor.surroundings import Launcher, judge_encodings
from ftune.launch.doctor.surroundings import gather as gather_launcher
from ftune.launch.doctor.surroundings import judge as judge_launcher
from tests.conftest import Done

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


FOLDER = storage.Folder("output folder", "runs", True, 500 * GIB, 900 * GIB, "ext4")


@pytest.mark.parametrize(
    ("folder", "level", "said"),
    [
        (FOLDER, "ok", "500 GiB of 900 GiB free, ext4"),
        (replace(FOLDER, free=GIB // 2), "error", "nearly full"),
        (replace(FOLDER, free=5 * GIB), "warning", "little"),
        (replace(FOLDER, trouble="Read-only file system"), "error", "cannot be written: Read-only file system"),
        (replace(FOLDER, no_sync="Invalid argument"), "error", "cannot be synced"),
        (replace(FOLDER, no_sync="Invalid argument", is_lasting=False), "ok", "ext4"),
        (replace(FOLDER, system="nfs4"), "warning", "over the network"),
        (replace(FOLDER, system="lustre"), "ok", "parallel"),
        (replace(FOLDER, system="tmpfs"), "warning", "gone when the machine restarts"),
        (replace(FOLDER, system="tmpfs", is_lasting=False), "ok", "tmpfs"),
    ],
)
def test_what_a_disk_is_good_for(folder: storage.Folder, level: str, said: str) -> None:
    (found,) = storage.judge(folder)
    assert found.level == level
    assert said in found.text


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = storage.look("output folder", tmp_path / "not" / "yet")
    assert (found.trouble, found.no_sync) == ("", "")
    assert found.total >= found.free > 0
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    assert "is not a folder" in storage.look("output folder", file / "run").trouble
    assert storage.look("temporary files", tmp_path / "no", may_be_made=False).trouble == "no such folder"


def test_the_mount_of_a_path() -> None:
    mounts = "/dev/a / ext4 rw 0 0\nsrv:/h /home nfs4 rw 0 0\n/dev/b /home/my\\040disk xfs rw 0 0\nx / overlay rw 0 0\n"
    assert storage.mounted("/home/ann/runs", mounts) == "nfs4"
    assert storage.mounted("/home/my disk/runs", mounts) == "xfs"
    assert storage.mounted("/homework", mounts) == "overlay"  # the later mount on `/` hides the earlier


LIMITS = limits.LimitFacts(
    shm_total=64 * GIB,
    shm_free=64 * GIB,
    open_files=65536,
    locked_bytes=None,
    rdma=("mlx5_0",),
    cores_shown=64,
    cores_usable=64,
    cores_granted=None,
    memory=512 * GIB,
    memory_granted=None,
    cpu="a processor",
    threads_set=None,
)


@pytest.mark.parametrize(
    ("facts", "processes", "level", "said"),
    [
        (replace(LIMITS, shm_total=64 * 2**20, shm_free=64 * 2**20), 8, "error", "64 MiB of 64 MiB free"),
        (replace(LIMITS, shm_total=64 * 2**20, shm_free=64 * 2**20), 1, "warning", "bus error"),
        (replace(LIMITS, shm_total=None, shm_free=None), 8, "warning", "no /dev/shm"),
        (replace(LIMITS, open_files=256), 8, "warning", "only 256 files"),
        (replace(LIMITS, locked_bytes=64 * 2**10), 8, "warning", "lock only 64 KiB"),
        (replace(LIMITS, cores_granted=4.0), 2, "warning", "4 of 64 cores may be used"),
        (replace(LIMITS, cores_usable=4), 8, "warning", "for 8 processes"),
        (replace(LIMITS, memory_granted=16 * GIB), 1, "warning", "grants 16 GiB of 512 GiB"),
    ],
)
def test_limits_of_a_process(facts: limits.LimitFacts, processes: int, level: str, said: str) -> None:
    found = worst(limits.judge(facts, processes))
    assert found.level == level
    assert said in found.text
    assert found.remedy


def test_no_limits_no_faults() -> None:
    assert set(levels(limits.judge(LIMITS, 8))) == {"ok"}
    assert set(levels(limits.judge(replace(LIMITS, rdma=(), locked_bytes=2**16), 8))) == {"ok"}
    shared = worst(limits.judge(replace(LIMITS, cores_granted=8.0), 4))
    assert shared.remedy == "export OMP_NUM_THREADS=2"


def test_the_tightest_cgroup_counts(tmp_path: Path) -> None:
    group = tmp_path / "two" / "job.slice" / "step"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "cpu.max").write_text("400000 100000\n")
    (group.parent / "memory.max").write_text("17179869184\n")
    (tmp_path / "membership").write_text("0::/job.slice/step\n")
    assert limits.cgroup_limits(tmp_path / "membership", tmp_path / "two") == (4.0, 16 * GIB)

    old = tmp_path / "one"
    (old / "memory" / "job").mkdir(parents=True)
    (old / "cpu").mkdir()
    (old / "memory" / "job" / "memory.limit_in_bytes").write_text("1073741824\n")
    (old / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")  # of a container: the mount is the group
    (old / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text("4:memory:/job\n1:cpu:/docker/abc\n")
    assert limits.cgroup_limits(tmp_path / "membership", old) == (1.5, GIB)
    assert limits.cgroup_limits(tmp_path / "nothing", old) == (None, None)


PORTS = ports.PortFacts("", "", ("lo", "eth0", "ib0"), {})


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (replace(PORTS, bound="Operation not permitted"), "error", "Operation not permitted"),
        (replace(PORTS, host_resolved="Name or service not known"), "warning", "own name"),
        (replace(PORTS, address="gpu1", address_resolved="Name or service not known"), "error", "MASTER_ADDR=gpu1"),
        (replace(PORTS, wanted_interfaces={"NCCL_SOCKET_IFNAME": "bond"}), "error", "has lo, eth0, ib0"),
    ],
)
def test_how_processes_can_meet(facts: ports.PortFacts, level: str, said: str) -> None:
    found = worst(ports.judge(facts))
    assert found.level == level
    assert said in found.text
    assert found.remedy


@pytest.mark.parametrize(
    ("wanted", "there"), [("eth", True), ("=eth", False), ("=ib0", True), ("^lo", True), ("x,ib", True), ("x", False)]
)
def test_interfaces_are_named_as_nccl_does(wanted: str, there: bool) -> None:
    assert ports.matches(wanted, PORTS.interfaces) is there


FOUR = {"RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "level", "said"),
    [
        ({}, "ok", "none around this process"),
        ({"SLURM_JOB_ID": "7"}, "ok", "in Slurm's job 7"),
        (FOUR, "error", "would wait for process 0"),
        ({**FOUR, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}, "error", "would wait for process 0"),
        ({**FOUR, "RANK": "0"}, "warning", "wait for 3 other processes"),
        ({**FOUR, "TORCHELASTIC_RUN_ID": "none"}, "ok", "started by torchrun: rank 1 of 4, on 1 node"),
        ({"RANK": "0"}, "warning", "half of what a launcher sets"),
        ({"RANK": "7", "WORLD_SIZE": "4"}, "error", "no such world"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "error", "is no number"),
        ({"FSDP_VERSION": "2"}, "warning", "FSDP_VERSION set outside"),
    ],
)
def test_variables_of_launchers(environment: dict[str, str], level: str, said: str) -> None:
    found = list(judge_launcher(gather_launcher(environment)))
    assert found[-1].level == level
    assert said in found[-1].text


def test_a_first_process_that_answers_is_only_a_warning() -> None:
    world = World(1, 2, 1, 2, 1, 0, "torchrun")
    facts = Launcher(world, "", FOUR, marked=False, accelerate=(), answered=True)
    assert levels(judge_launcher(facts)) == ["warning"]


def test_encodings() -> None:
    assert levels(judge_encodings("UTF-8", "utf-8")) == ["ok"]
    assert "ANSI_X3.4-1968" in worst(judge_encodings("ANSI_X3.4-1968", "utf-8")).text


def test_what_a_recipe_needs() -> None:
    asked = needs.of_values(
        {
            "output_dir": "out",
            "backend": {"type": "zero", "device": "auto", "offload": {"optimizer": "nvme", "parameters": "none"}},
            "model": {"dtype": "bf16", "attention": "eager", "quantization": {"type": "none"}},
            "optim": {"optimizer": "adamw_8bit"},
        }
    )
    assert asked.output == Path("out")
    assert asked.bitsandbytes == "optim.optimizer: adamw_8bit"
    assert asked.deepspeed_ops == {
        "cpu_adam": "backend.offload.optimizer: nvme",
        "async_io": "backend.offload.optimizer: nvme",
    }
    assert needs.of_values({"backend": {"type": "ddp"}}).deepspeed_ops == {}


@pytest.mark.parametrize(
    ("asked", "there", "level", "said"),
    [
        (needs.Needs(backend="ddp", processes=8), [H100], "error", "this machine has 1 GPU"),
        (needs.Needs(backend="ddp", processes=2), [H100, H100], "ok", "2 processes a node, 1 node, on GPUs"),
        (needs.Needs(backend="ddp", processes=8, device="cpu"), [H100], "ok", "8 processes a node, 1 node, on the CPU"),
        (needs.Needs(device="cuda"), [], "error", "no GPU can be used"),
        (needs.Needs(backend="zero"), [H100], "error", "DeepSpeed is not installed"),
        (needs.Needs(dtype="fp16"), [], "error", "fp16"),
        (needs.Needs(dtype="bf16"), [{**H100, "capability": [7, 5]}], "warning", "slowly"),
    ],
)
def test_a_recipe_on_a_machine(asked: needs.Needs, there: list[dict[str, object]], level: str, said: str) -> None:
    found = list(needs.judge(asked, there, has_deepspeed=False))
    assert found[-1].level == level
    assert said in found[-1].text


def test_one_check_neither_ends_nor_delays_the_others() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("broken", "so far")
        raise ZeroDivisionError("division by zero\nand more")

    def hanging() -> Iterator[Finding]:
        time.sleep(30)
        yield ok("hanging", "too late")

    begun = time.monotonic()
    checks = {"broken": broken, "hanging": hanging, "fine": lambda: [ok("fine", "here")]}
    found = start(checks, limit_s=0.2)()
    assert time.monotonic() - begun < 5
    assert [(one.level, one.area) for one in found] == [("warning", "broken"), ("warning", "hanging"), ("ok", "fine")]
    assert found[0].text == "the check itself failed: ZeroDivisionError: division by zero"
    assert found[1].text == "the check did not end within 0.2 s"


def test_a_report_names_nobody() -> None:
    text = "/home/ann/.cache/x, /scratch/ann/runs and /home/anna"
    assert without_names(text, home="/home/ann", user="ann") == "~/.cache/x, /scratch/$USER/runs and /home/anna"
    shown = json.loads(as_json([warning("disk", f"{Path.home()}/x", f"rm {Path.home()}/x")]))
    assert shown == {
        "errors": 0,
        "warnings": 1,
        "findings": [{"level": "warning", "area": "disk", "found": "~/x", "remedy": "rm ~/x"}],
    }


@pytest.mark.parametrize(("count", "words"), [(64 * 2**20, "64 MiB"), (1536 * 2**20, "1.5 GiB"), (512, "512 bytes")])
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words


def write_recipe(folder: Path, peft: str) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    path = folder / "mine.yaml"
    path.write_text(f"model: {{path: {folder}}}\ndata: {{train: {folder}/rows.jsonl}}\npeft: {peft}\n")
    return path


def test_a_machine_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight GPUs of which torch tells, though they are not here."""
    answers = {"ended": "", "torch": CUDA, "gpus": [H100] * 8, "bitsandbytes": None, "flash_attn": None}
    monkeypatch.setattr(probe, "ask", lambda: answers)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = examine(write_recipe(tmp_path, "{type: lora}"))
    assert [one.text for one in found if one.area == "gpu"][7] == (
        "GPU 7: NVIDIA H100, 80 GiB, compute capability 9.0, 79 GiB free"
    )
    areas = {one.area for one in found}
    assert {"recipe", "torch", "packages", "disk", "shm", "ports", "launcher", "hub", "locale", "limits"} <= areas
    assert not [one for one in found if "the check itself failed" in one.text]
    assert any(one.text.endswith("1 process a node, 1 node, on GPUs") for one in found)
    assert "hf_secret" not in as_json(found)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"ended": "", "torch": {"failed": "ImportError: libcudart"}}, "torch cannot be used: ImportError: libcudart"),
        ({"ended": "the process that looks at torch ended with signal 11"}, "ended with signal 11"),
    ],
)
def test_a_broken_torch_is_one_error(monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], said: str) -> None:
    """What rests on torch is not guessed at, and the rest is still looked at."""
    monkeypatch.setattr(probe, "ask", lambda: answers)
    found = examine(None)
    assert [one.level for one in found if said in one.text] == ["error"]
    assert not {"gpu", "attention", "bitsandbytes"} & {one.area for one in found}
    assert "disk" in {one.area for one in found}


def test_the_faults_of_a_recipe_are_findings(tmp_path: Path) -> None:
    asked, found = needs.read(write_recipe(tmp_path, "{type: lora, rnk: 4}"))
    assert asked == needs.Needs()
    assert levels(found) == ["error"]
    assert "did you mean 'rank'" in found[0].text
    assert levels(needs.read(tmp_path / "none.yaml")[1]) == ["error"]


def test_a_probe_that_dies_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered before the crash is kept, and the crash is told."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"torch\": 1}'\necho 'Fatal: driver' >&2\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    answers = probe.ask()
    assert answers["torch"] == 1
    assert "signal 11" in answers["ended"]
    python.write_text("#!/bin/sh\necho '{\"torch\": 1}'\nexec sleep 30\n")
    answers = probe.ask(limit_s=0.3)
    assert answers == {"torch": 1, "ended": "torch or the GPU driver gave no answer within 0.3 s"}


@pytest.mark.slow
def test_the_program_examines_this_machine(ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    done = ftune("doctor", "--json")
    report = json.loads(done.out)
    assert done.code == (1 if report["errors"] else 0)
    texts = [one["found"] for one in report["findings"]]
    assert any(text.startswith("torch 2.") for text in texts)
    assert os.environ.get("HF_TOKEN", "no token") not in done.out
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    broken = ftune("doctor")
    assert broken.code == 1
    assert "temporary files /no/such/folder: cannot be written" in broken.out
