"""`ftune doctor --network`: processes meet, or are told who is missing, and exchange sums."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.errors import LaunchError
from ftune.core.world import World, variables
from ftune.launch.doctor.all_reduce import SIZES, Timing, bus_bandwidth, factor, sizes
from ftune.launch.doctor.links import in_words, links_in
from ftune.launch.doctor.meeting import meet, told_missing
from ftune.launch.doctor.network import broken_off
from ftune.launch.doctor.speeds import Speeds, tell
from ftune.launch.place import free_port
from tests.conftest import Done, spawn


def world(rank: int, count: int, nodes: int = 1) -> World:
    each = count // nodes
    return World(rank, count, rank % each, each, nodes, rank // each, "torchrun")


@pytest.fixture
def joined_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[World, int], None]:
    def join(member: World, port: int) -> None:
        for name, value in variables(member, "127.0.0.1", port).items():
            monkeypatch.setenv(name, value)

    return join


@pytest.mark.parametrize("count", [2, 3, 8, 1000])
def test_bus_bandwidth_is_that_of_a_ring(count: int) -> None:
    """A ring sends n - 1 pieces to sum and n - 1 to spread, each an n-th of the message."""
    message, seconds = 3_000_000, 0.25
    pieces = 2 * (count - 1)
    assert bus_bandwidth(message, seconds, count) == pytest.approx(pieces * message / count / seconds)


def test_sums_are_exact_in_fp32_for_thousands_of_processes() -> None:
    assert 251 * sum(factor(rank) for rank in range(16_000)) < 2**24


def test_sizes() -> None:
    assert (SIZES[0], SIZES[-1]) == (2**10, 2**28)
    assert sizes(on_gpu=True) == SIZES
    assert max(sizes(on_gpu=False)) == 2**24


def test_links_as_nccl_writes_them() -> None:
    log = (
        "h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
        "h:1:2 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/IB/0/GDRDMA\n"
        "h:1:2 [0] NCCL INFO Channel 01/0 : 1[1] -> 2[0] [send] via NET/Socket/1\n"
        "h:1:2 [0] NCCL INFO Channel 01 : 0[0] -> 1[1] via SHM/direct/direct\n"
    )
    assert links_in(log) == {"P2P", "NET/IB with GPUDirect RDMA", "NET/Socket", "SHM"}
    assert in_words({"P2P"}) == "P2P (GPU to GPU (NVLink or PCIe))"
    assert links_in("") == set()


def test_the_missing_are_named() -> None:
    words = told_missing([1, 4, 5, 6, 7], world(0, 8, nodes=2), "gpu1:29500")
    assert "5 of 8 processes did not come to gpu1:29500: rank 1, 4, 5, 6, 7 (all of node 1)" in words
    assert told_missing(list(range(1, 100)), world(0, 100), "gpu1:29500").count(",") < 25


def test_wrong_sums_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    from ftune.core.say import Say

    speeds = Speeds(world(0, 2), "gpu1:29500", "nccl", "P2P", [Timing(2**20, 0.001, (1,))])
    assert not speeds.are_right
    tell(speeds, Say())
    out = capsys.readouterr().out
    assert "1 MiB     1.000 ms       1.049 GB/s  WRONG on rank 1" in out
    assert "do not train here" in out


def test_an_exchange_that_breaks_off_is_told_without_places_in_gloo() -> None:
    reset = "[/__w/gloo/tcp/pair.cc:537] Read error [10.0.0.2]:9353: Connection reset by peer. This is typically ..."
    words = broken_off(reset, world(0, 2, nodes=2), {})
    assert words.startswith("the exchange broke off: Read error [10.0.0.2]:9353: Connection reset by peer; see")
    refused = "Gloo connectFullMesh failed with [/__w/pair.cc:152] SO_ERROR: Connection refused, remote=[127.0.0.1]:4$0"
    alone = broken_off(refused, world(0, 2, nodes=2), {"MASTER_ADDR": "127.0.0.1"})
    assert "export GLOO_SOCKET_IFNAME=lo on this node" in alone
    assert "GLOO_SOCKET_IFNAME" not in broken_off(refused, world(0, 2), {})
    assert "export" not in broken_off(refused, world(0, 2, nodes=2), {"GLOO_SOCKET_IFNAME": "eth0"})


def test_who_does_not_come_is_told_in_time(joined_as: Callable[[World, int], None]) -> None:
    port = free_port()
    joined_as(world(0, 3), port)
    with pytest.raises(LaunchError, match=rf"2 of 3 processes did not come to 127.0.0.1:{port}: rank 1, 2"):
        meet(world(0, 3), 0.3)
    unused = free_port()
    joined_as(world(1, 2), unused)
    with pytest.raises(LaunchError, match=rf"rank 1 of 2 tried 127.0.0.1:{unused}.*Connection refused"):
        meet(world(1, 2), 0.3)


def test_no_address_no_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(LaunchError, match="MASTER_ADDR is not set"):
        meet(world(1, 2), 0.3)


@pytest.mark.slow
def test_two_processes_exchange_sums(ftune: Callable[..., Done], joined_as: Callable[[World, int], None]) -> None:
    port = free_port()
    other = spawn("doctor", "--network", **variables(world(1, 2), "127.0.0.1", port))
    joined_as(world(0, 2), port)
    done = ftune("doctor", "--network", "--json")
    out, err = other.communicate(timeout=120)
    assert (done.code, other.returncode, out, err) == (0, 0, "", ""), done.err
    report = json.loads(done.out)
    assert (report["processes"], report["backend"], report["address"]) == (2, "gloo", f"127.0.0.1:{port}")
    assert [row["bytes"] for row in report["sizes"]] == sizes(on_gpu=False)
    assert all(row["latency_s"] > 0 and row["wrong_ranks"] == [] for row in report["sizes"])


def write_recipe(folder: Path, backend: str) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    path = folder / "mine.yaml"
    path.write_text(f"model: {{path: {folder}}}\ndata: {{train: {folder}/rows.jsonl}}\nbackend: {backend}\n")
    return path


def test_one_process_has_nobody_to_talk_to(ftune: Callable[..., Done], tmp_path: Path) -> None:
    done = ftune("doctor", "--network", write_recipe(tmp_path, "single"))
    assert done.code == 2
    assert "one process has nobody to exchange with" in done.err


@pytest.mark.slow
def test_the_processes_of_a_recipe_are_started(ftune: Callable[..., Done], tmp_path: Path) -> None:
    backend = "{type: ddp, num_processes: 2, device: cpu}"
    done = ftune("doctor", "--network", write_recipe(tmp_path, backend))
    assert done.code == 0, done.err
    assert "2 processes on 1 node, started by ftune" in done.out
    assert done.out.endswith("all sums were right\n")
