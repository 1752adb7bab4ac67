"""The task of SkyPilot: its text, against the published schema, and its command run by a shell."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from ftune.core.errors import LaunchError
from ftune.launch.sky import gpus_of, sky_task
from tests.conftest import Done
from tests.launch.clusters import check_golden, make_job, schema, write_recipe

ODD = 'it\'s $HOME `x` "q" \\ #1.yaml'
TASK = {"gpus": "H100:8", "volumes": {"/mnt/runs": "runs"}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_task_of_a_job() -> None:
    made = make_job("my.yaml", "output_dir=/mnt/runs/my")
    check_golden(sky_task(made, image="docker:ghcr.io/me/ftune:1", **TASK), "plain.sky.yaml")


def test_the_task_of_a_job_with_everything() -> None:
    made = make_job(ODD, "output_dir=/efs/a b", nodes=1)
    setup = "python -m venv ~/v\n~/v/bin/pip install -e .\n"
    check_golden(sky_task(made, gpus="A100-80GB:8", volumes={}, setup=setup, infra="aws/*", spot=True), "full.sky.yaml")


@pytest.mark.parametrize("name", ["plain.sky.yaml", "full.sky.yaml"])
def test_it_fits_the_published_schema(name: str) -> None:
    task = yaml.safe_load((Path(__file__).parent / "golden" / name).read_text())
    jsonschema.validate(task, schema("skytask.yaml"))
    for wrong in ({**task, "nodes": 2}, {**task, "resources": {"gpus": "H100:8"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema("skytask.yaml"))


def test_a_node_starts_its_share(tmp_path: Path) -> None:
    text = sky_task(make_job(ODD, "output_dir=/mnt/a b\n#c"), image="docker:x", **TASK)
    (tmp_path / "ftune").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "ftune").chmod(0o755)
    node = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SKYPILOT_NUM_GPUS_PER_NODE": "8", **node}
    command = ["bash", "-c", yaml.safe_load(text)["run"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        *("launch", "node", ODD, "output_dir=/mnt/a b\n#c", "--nodes", "2", "--node-rank", "1"),
        *("--address", "10.0.0.1:29500", "--num-processes", "8", "--resume"),
    ]


def test_nodes_need_ftune_and_the_run_storage_that_outlives_them() -> None:
    with pytest.raises(LaunchError, match="give --image"):
        sky_task(make_job("my.yaml", "output_dir=/mnt/runs/my"), **TASK)
    with pytest.raises(LaunchError, match="output_dir=/mnt/runs/my"):
        sky_task(make_job(), image="docker:x", **TASK)


@pytest.mark.parametrize(("text", "count"), [("H100:8", 8), ("A100-80GB", 1), ("h100:0", None), ("8", None)])
def test_gpus(text: str, count: int | None) -> None:
    if count:
        assert gpus_of(text) == count
    else:
        with pytest.raises(LaunchError, match="H100:8"):
            gpus_of(text)


def test_the_command(ftune: Callable[..., Done]) -> None:
    write_recipe()
    words = ("launch", "sky", "my.yaml", "output_dir=/mnt/runs/my", "--nodes", 2, "--gpus", "H100:8")
    done = ftune(*words, "--image", "docker:ghcr.io/me/ftune:1", "--volume", "runs:/mnt/runs")
    assert (done.code, done.out) == (0, "")
    assert "sky jobs launch my.sky.yaml" in done.err
    check_golden(Path("my.sky.yaml").read_text(), "plain.sky.yaml")
