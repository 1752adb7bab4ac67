"""The TrainJob: its text, against the published schema, and the command as Kubernetes makes it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import LaunchError
from ftune.launch.job import Job
from ftune.launch.k8s import train_job
from tests.conftest import Done
from tests.launch.clusters import check_golden, make_job, schema, write_recipe

PODS = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "my-node-0-0.my",
    "PET_MASTER_PORT": "29400",
    "PET_NPROC_PER_NODE": "8",
}
"""What Kubeflow Trainer sets in the second of two pods."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_manifest_of_a_job() -> None:
    check_golden(train_job(make_job(), image="ghcr.io/me/ftune:1", claims={"/work": "work"}), "plain.k8s.yaml")


def test_the_manifest_of_a_job_with_everything() -> None:
    made = make_job("it's $(HOME).yaml", "seed=7", "output_dir=/runs/a", nodes=1, gpus=4)
    claims = {"/my data": "data", "/runs": "runs"}
    text = train_job(made, image="x/y@sha256:0", claims=claims, workdir="/my data/$x", namespace="ml", runtime="mine")
    check_golden(text, "full.k8s.yaml")


@pytest.mark.parametrize("name", ["plain.k8s.yaml", "full.k8s.yaml"])
def test_it_fits_the_published_schema(name: str) -> None:
    manifest = yaml.safe_load((Path(__file__).parent / "golden" / name).read_text())
    jsonschema.validate(manifest, schema("trainjob.yaml"))
    for wrong in _broken(manifest):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema("trainjob.yaml"))


def _broken(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    return [
        {**manifest, "spec": {**spec, "podTemplateOverrides": spec["runtimePatches"]}},
        {**manifest, "spec": {**spec, "trainer": {**spec["trainer"], "numProcPerNode": "auto"}}},
        {**manifest, "metadata": {"name": "My Job"}},
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=3))
def test_every_word_arrives_as_it_was_given(overrides: list[str]) -> None:
    made = Job(Path("my.yaml"), tuple(overrides), "runs/my", 2, 8)
    manifest = yaml.safe_load(train_job(made, image="x", claims={"/w $(PET_NNODES)": "w"}))
    trainer = manifest["spec"]["trainer"]
    words = [_expanded(word) for word in [*trainer["command"], *trainer["args"]]]
    assert words == [
        *("env", "--chdir", "/w $(PET_NNODES)", "ftune", "launch", "node", "my.yaml", *overrides),
        *("--nodes=2", "--node-rank=1", "--address=my-node-0-0.my:29400", "--num-processes=8", "--resume"),
    ]


def _expanded(word: str) -> str:
    """As the kubelet does it: `$(NAME)` is the variable's value where there is one, `$$` a dollar sign."""
    return re.sub(r"\$(?:\$|\(([^)]*)\))", lambda m: "$" if m[0] == "$$" else PODS.get(m[1], m[0]), word)


def test_it_needs_shared_storage() -> None:
    with pytest.raises(LaunchError, match="--pvc CLAIM:FOLDER"):
        train_job(make_job(), image="x", claims={})


def test_the_command(ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe()
    words = ("launch", "k8s", "my.yaml", "--nodes", 2, "--gpus-per-node", 8, "--image", "ghcr.io/me/ftune:1")
    done = ftune(*words, "--pvc", "work:/work", "--print")
    assert done.code == 0
    check_golden(done.out, "plain.k8s.yaml")
    assert ftune(*words).code == 2
    assert ftune(*words, "--pvc", "work:/work", "--print", "data.train=/work/rows.jsonl").code == 0
    monkeypatch.setattr("ftune.recipes.training_sections.find_spec", lambda name: None)
    assert ftune(*words, "--pvc", "work:/work", "--print", "log.trackers=[wandb]").code == 0  # pods have the image's
