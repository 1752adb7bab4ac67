"""A run on two machines, which are network namespaces: one is lost in the middle, and a few steps with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from tests.e2e.test_stops import wait_for_step
from tests.namespaces import Node, two_nodes

STEPS = 40
ENDS_IN_S = 30.0
Nodes = tuple[Node, Node]


def start(nodes: Nodes, path: Path, run: str) -> list["subprocess.Popen[str]"]:
    """`ftune launch node` on both machines, as a script does it that is queued again after a loss."""
    place = ["--nodes", 2, "--address", f"{nodes[0].address}:29513", "--resume"]
    words = [sys.executable, "-m", "ftune", "launch", "node", path, f"output_dir={run}", *place, "--node-rank"]
    return [
        subprocess.Popen(node.command(*words, number), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number, node in enumerate(nodes)
    ]


def finish(processes: list["subprocess.Popen[str]"]) -> str:
    """What node 0 said, once both have ended well."""
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return "".join(said[0])


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "adapter/adapter_model.safetensors")
    return found


def lose(node: "subprocess.Popen[str]") -> None:
    """End the supervisor and its process as a power cut does: neither can say anything."""
    ranks = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    assert len(ranks) == 1
    for pid in (node.pid, *map(int, ranks)):
        os.kill(pid, signal.SIGKILL)
    node.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_lost_node_ends_the_other_and_the_resumed_run_is_the_one_that_lost_none(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(
        schedule={"max_steps": STEPS},
        checkpoint={"every": 5},
        peft={"type": "lora", "dropout": 0.1},
        batch={"micro_batch_size": 2, "global_batch_size": 4},
        backend={"type": "ddp", "num_processes": 1, "num_nodes": 2, "device": "cpu"},
    )
    run = tmp_path / "runs/broken"
    with two_nodes() as nodes:
        assert "2 processes" in finish(start(nodes, path, "runs/whole"))
        for lost, number in ((1, 7), (0, 22)):
            processes = start(nodes, path, "runs/broken")
            wait_for_step(run, number)
            lose(processes[lost])
            lost_at = time.monotonic()
            _, err = processes[1 - lost].communicate(timeout=120)
            assert time.monotonic() - lost_at < ENDS_IN_S
            assert processes[1 - lost].returncode == 1
            assert f"process {lost} (" in err
            assert "is gone" in err
            assert "Traceback" not in err
        assert "resumed from step" in finish(start(nodes, path, "runs/broken"))
        assert "is finished, nothing to do" in finish(start(nodes, path, "runs/broken"))
    steps = [event["step"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]
    assert steps == [*range(1, STEPS + 1)]
    wanted, found = weights(tmp_path / "runs/whole"), weights(run)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
