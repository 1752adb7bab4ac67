"""Small parts of `ftune sft`."""

import shlex

from ftune.recipes.runs.training import resume_command


def test_the_resume_command_keeps_the_words_as_they_were() -> None:
    words = ["ftune", "sft", "my recipe.yaml", "data={train: a b.jsonl}", "--overwrite"]
    assert shlex.split(resume_command(shlex.join(words))) == [*words[:-1], "--resume"]
    assert resume_command("ftune sft r.yaml --resume") == "ftune sft r.yaml --resume"
