"""What `ftune doctor` says about disks, limits, ports and launchers, by facts about them."""

from dataclasses import replace
from pathlib import Path

import pytest

from ftune.core.world import World
from ftune.launch.doctor import limits, ports, storage
from ftune.launch.doctor.finding import GIB
from ftune.launch.doctor.surroundings import Launcher, judge_encodings
from ftune.launch.doctor.surroundings import gather as gather_launcher
from ftune.launch.doctor.surroundings import judge as judge_launcher
from tests.launch.findings import levels, worst

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
