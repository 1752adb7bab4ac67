"""Samples of completions in a run folder."""

import json
from pathlib import Path

from ftune.ppo.samples import FILE, forget_samples, write_samples


def test_samples_of_later_iterations_go_and_all_others_stay_whatever_they_hold(tmp_path: Path) -> None:
    """Line separators of Unicode are no ends of lines in JSON Lines; a kill leaves a torn line."""
    samples = [{"iteration": number, "completion": f"one\u2028two\x85{number}"} for number in range(4)]
    write_samples(tmp_path, samples)
    with (tmp_path / FILE).open("a", encoding="utf-8") as file:
        file.write('{"iteration": 1, "compl')
    forget_samples(tmp_path, 2)
    assert [json.loads(line) for line in (tmp_path / FILE).read_text("utf-8").split("\n")[:-1]] == samples[:3]
