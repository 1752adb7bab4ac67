"""Small parts of `ftune sft`."""

import shlex
from pathlib import Path

import pytest

from ftune.core.errors import StorageError
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.training import _resumable, resume_command
from ftune.report.run_folder import RunFolder


def test_the_resume_command_keeps_the_words_as_they_were() -> None:
    words = ["ftune", "sft", "my recipe.yaml", "data={train: a b.jsonl}", "--overwrite"]
    assert shlex.split(resume_command(shlex.join(words))) == [*words[:-1], "--resume"]
    assert resume_command("ftune sft r.yaml --resume") == "ftune sft r.yaml --resume"


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_full_disk_names_the_way_on_only_where_there_is_one(tmp_path: Path, checkpoint: bool) -> None:
    folder = RunFolder.open(tmp_path / "run", {}, "", resume=False, overwrite=False)
    if checkpoint:
        (folder.path / "checkpoint-4").mkdir()
    with pytest.raises(StorageError) as raised, _resumable(folder, RunOptions("", "ftune sft r.yaml")):
        raise StorageError("the disk is full")
    assert ("ftune sft r.yaml --resume" in str(raised.value)) == checkpoint
