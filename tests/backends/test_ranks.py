"""A process that fails in common work is the one that the others speak of."""

import json
from pathlib import Path

import pytest

from ftune.core.errors import StorageError
from ftune.launch.place import free_port
from tests.pair import run_pair

ERRORS = {
    "says": ("StorageError", "disk: no space left", StorageError.exit_code),
    "does not say": ("KeyError", "'no such word'", None),
}


@pytest.mark.parametrize("how", ERRORS)
@pytest.mark.parametrize("who", [0, 1])
def test_both_end_with_the_words_of_the_one_that_failed(who: int, how: str, tmp_path: Path) -> None:
    run_pair("tests.backends.failing_ranks", tmp_path, str(free_port()), str(who), how)
    found = [json.loads((tmp_path / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    kind, words, code = ERRORS[how]
    assert found[who] == [kind, words, code]
    followed, told, exit_code = found[1 - who]
    assert (followed, exit_code) == ("LostError", code or 1)
    assert told.startswith(f"process {who} (")
    assert words in told
