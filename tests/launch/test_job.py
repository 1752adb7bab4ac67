"""What all scripts for clusters check first."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import LaunchError
from ftune.launch.job import Job, job_of, mounts_of, name_of
from ftune.recipes.eval import EvalRecipe
from ftune.recipes.load import Loaded
from tests.launch.clusters import make_job


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("backend={type: single}", "'single' is one process, and 2 x 8 GPUs are 16"),
        ("backend.device=cpu", "leaves the GPUs of the cluster idle"),
        ("batch={micro_batch_size: 3, global_batch_size: 144}", None),
        (
            "batch={micro_batch_size: 4, global_batch_size: 32}",
            "rows a step do not go round 16 processes of 4 rows (batch.micro_batch_size); set batch.micro_batch_size=2",
        ),
    ],
)
def test_what_the_recipe_cannot_use_is_refused(override: str, said: str | None) -> None:
    if said is None:
        assert make_job("my.yaml", override).nodes == 2
    else:
        with pytest.raises(LaunchError, match=re.escape(said)):
            make_job("my.yaml", override)


def test_a_command_of_one_process_is_refused() -> None:
    with pytest.raises(LaunchError, match="'ftune eval' runs in one process"):
        job_of(Loaded(EvalRecipe(model="runs/x"), Path("x.yaml"), "", (), {}), 1, 1)


def test_the_numbers_of_the_command_count() -> None:
    made = make_job("my.yaml", "backend.num_nodes=3", nodes=4, gpus=8)
    assert (made.nodes, made.gpus_per_node) == (4, 8)


def test_single_is_fine_for_one_gpu() -> None:
    assert make_job("my.yaml", "backend={type: single}", nodes=1, gpus=1).run == ["my.yaml", "backend={type: single}"]


@given(st.text(alphabet=st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_a_name_that_all_schedulers_take(stem: str) -> None:
    name = name_of(Job(Path(f"{stem}.yaml"), (), "runs/x", 1, 1))
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 60


@pytest.mark.parametrize("value", ["runs", "runs:", ":/x", "runs:here"])
def test_a_mount_needs_a_name_and_a_folder(value: str) -> None:
    with pytest.raises(LaunchError, match="NAME:FOLDER"):
        mounts_of("--pvc", [value])
