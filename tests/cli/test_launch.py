"""`ftune launch node` and `ftune launch accelerate`; the scripts for clusters are tested beside their modules."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import Done
from tests.launch.clusters import write_recipe


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", 2], "give --node-rank K"),
        (["--nodes", 2, "--node-rank", 2], "--node-rank: 2 of 2 nodes"),
        (["--nodes", 2, "--node-rank", 1, "--address", "gpu01:port"], "is no HOST:PORT"),
        (["--resume", "--overwrite"], "choose one"),
    ],
)
def test_a_node_that_cannot_be(ftune: Callable[..., Done], words: list[object], said: str) -> None:
    done = ftune("launch", "node", write_recipe(), *words)
    assert done.code == 2
    assert said in done.err


def test_the_configuration_of_accelerate(ftune: Callable[..., Done]) -> None:
    done = ftune("launch", "accelerate", write_recipe(), "backend.num_nodes=2", "--output", "made")
    assert done.code == 0
    assert yaml.safe_load(Path("made/accelerate.yaml").read_text())["num_machines"] == 2
    assert "accelerate launch --config_file made/accelerate.yaml --machine_rank K" in done.err
