"""The script for Slurm: its text, and what it does when it is run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftune.core.errors import LaunchError
from ftune.launch.job import Job
from ftune.launch.slurm import Container, slurm_script, submit
from tests.conftest import Done
from tests.launch.clusters import HERE, check_golden, make_job, write_recipe

ODD = 'it\'s $HOME `x` "q" \\ #1.yaml'


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_script_of_a_plain_job() -> None:
    options = {"partition": "gpu", "time": "12:00:00", "qos": None}
    text = slurm_script(make_job(), workdir=Path("/shared/me"), programs=Path("/shared/me/venv/bin"), options=options)
    check_golden(text, "plain.sbatch")


def test_the_script_of_a_job_in_a_container() -> None:
    text = slurm_script(
        make_job(ODD, "seed=7", "output_dir=/scratch/my run", nodes=1, gpus=4),
        workdir=Path("/shared/my work"),
        programs=Path("/home/me/venv/bin"),
        options={"job-name": "odd", "cpus-per-task": "64", "mem": "0"},
        container=Container("nvcr.io#nvidia/pytorch:26.01-py3", ("/scratch:/scratch",)),
    )
    check_golden(text, "container.sbatch")


@pytest.mark.parametrize("path", sorted((HERE / "golden").glob("*.sbatch")), ids=lambda path: path.name)
def test_bash_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


@dataclass
class Cluster:
    """The stand-in for Slurm, and what it saw."""

    folder: Path

    def submit(self, job: Job, **plan: object) -> None:
        """Send the job's script and wait for its end."""
        (self.folder / "plan.json").write_text(json.dumps({"run": job.output_dir, "signal": False, **plan}))
        text = slurm_script(job, workdir=Path.cwd(), programs=self.folder, options={})
        Path("job.sbatch").write_text(text)
        assert submit(Path("job.sbatch")) == "4711"

    @property
    def ended(self) -> tuple[int, int]:
        """Exit code of the script, and how often it was queued again."""
        code, again = (self.folder / "ended").read_text().split()
        return int(code), int(again)

    def call(self, attempt: int, node: int) -> dict[str, object]:
        """What ftune was called with; KeyError where it did not get to its end."""
        path = self.folder / f"call-{attempt}-{node}"
        if not path.exists():
            raise KeyError(path.name)
        return dict(json.loads(path.read_text()))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Programs that stand in for those of Slurm and for ftune; waiting is short."""
    folder = tmp_path / "stand in"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "ftune"):
        text = f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "slurm_standin.py"}" {name} "$@"\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "sleep").write_text(f'#!/bin/sh\necho "$1" >"{folder}/slept"\nexec /bin/sleep 0.3\n')
    (folder / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN", str(folder))
    return Cluster(folder)


def test_a_run_to_its_end(cluster: Cluster) -> None:
    made = make_job(ODD, "seed=7", "output_dir=runs/a b\n#c", nodes=2, gpus=8)
    cluster.submit(made, codes=[0], steps=[4])
    assert cluster.ended == (0, 0)
    for node in range(2):
        call = cluster.call(0, node)
        assert call["folder"] == str(Path.cwd())
        assert call["words"] == [
            *("launch", "node", ODD, "seed=7", "output_dir=runs/a b\n#c", "--nodes", "2", "--num-processes", "8"),
            *("--address", "gpu01:24711", "--resume", "--node-rank", str(node)),
        ]
    assert not list(Path.cwd().glob("slurm-4711.*"))


def test_a_stopped_run_is_queued_again(cluster: Cluster) -> None:
    """Slurm's signal reaches all processes of the step; the slower node is not killed while it saves."""
    cluster.submit(make_job(), codes=[75, 0], steps=[2, 4], signal=True)
    assert cluster.ended == (0, 1)
    assert [cluster.call(attempt, node)["folder"] for attempt in range(2) for node in range(2)] == [str(Path.cwd())] * 4
    assert "saved at step 2: the job is queued again" in Path("my-4711.txt").read_text()
    assert not list(Path.cwd().glob("slurm-4711.*"))


def test_a_failed_run_is_not(cluster: Cluster) -> None:
    cluster.submit(make_job(), codes=[2], steps=[2])
    assert cluster.ended == (2, 0)
    assert cluster.call(0, 1), "the other node had time to end by itself"
    assert (cluster.folder / "slept").read_text() == "20\n"


def test_a_cancelled_run_is_not(cluster: Cluster) -> None:
    cluster.submit(make_job(), codes=[75], steps=[2], signal=True, cancel=True)
    assert cluster.ended == (75, 0)
    assert "not queued again" in Path("my-4711.txt").read_text()


def test_a_run_that_gets_nowhere_is_queued_again_three_times(cluster: Cluster) -> None:
    Path("runs/my/checkpoint-9.damaged").mkdir(parents=True)
    Path("slurm-4711.requeued").write_text("2 2\n")  # twice at step 2
    cluster.submit(make_job(), codes=[75, 75], steps=[2, 2])
    assert cluster.ended == (75, 1)
    assert "3 times there was no checkpoint newer than that of step 2" in Path("my-4711.txt").read_text()


@pytest.mark.parametrize("value", ["", "a b", "gpu\n#SBATCH --nodes=99", "a#b", "$(x)", "'a'"])
def test_an_option_stays_one_word(value: str) -> None:
    with pytest.raises(LaunchError, match="--partition"):
        slurm_script(make_job(), workdir=Path("/w"), programs=None, options={"partition": value})


def test_without_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(LaunchError, match="no such program on this machine"):
        submit(Path("x.sbatch"))


def test_what_sbatch_refuses_is_said(cluster: Cluster) -> None:
    (cluster.folder / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(LaunchError, match=r"x\.sbatch: sbatch refused it: invalid partition"):
        submit(Path("x.sbatch"))


def test_the_command(cluster: Cluster, ftune: Callable[..., Done]) -> None:
    write_recipe()
    (cluster.folder / "plan.json").write_text("{}")
    (cluster.folder / "sbatch").write_text("#!/bin/sh\necho 12\n")
    words = ("launch", "slurm", "my.yaml", "--nodes", 2, "--gpus-per-node", 8)
    shown = ftune(*words, "--print")
    assert shown.code == 0
    assert not Path("my.sbatch").exists()
    sent = ftune(*words, "--submit")
    assert (sent.code, sent.out) == (0, "12\n")
    assert Path("my.sbatch").read_text() == shown.out
    other = ftune(*words, "seed=1")
    assert other.code == 2
    assert "other content" in other.err
    assert ftune(*words, "seed=1", "--overwrite").code == 0
    assert "seed=1" in Path("my.sbatch").read_text()


def test_a_login_node_needs_the_files_but_not_the_devices(
    ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe()
    words = ("launch", "slurm", "my.yaml", "--nodes", 2, "--gpus-per-node", 8, "--print")
    assert ftune(*words, "backend.num_processes=999", "backend.device=cuda").code == 0
    assert "no such file" in ftune(*words, "data.train=nowhere.jsonl").err
    assert "--mount: there is no container to see it in" in ftune(*words, "--mount", "/a:/b").err
    monkeypatch.setattr("ftune.recipes.training_sections.find_spec", lambda name: None)
    assert "the wandb package is not installed" in ftune(*words, "log.trackers=[wandb]").err  # jobs have its packages
