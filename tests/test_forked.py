"""A forked run is a process like any other: it fails, says why and is killed as one, and has its own variables."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import spawn
from tests.forked import Forked, start

Ended = Callable[..., tuple[int | None, str]]


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """The exit code of a module of this code, and what it said."""

    def run(code: str, *words: str, **variables: str) -> tuple[int | None, str]:
        (tmp_path / "program.py").write_text(code)
        said = tmp_path / "said"
        process = start("program", words, tmp_path, {**os.environ, **variables}, said)
        process.join(300)
        return process.exitcode, said.read_text()

    return run


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(75)", 75),
        ("raise SystemExit('words')", 1),
        ("1 / 0", 1),
        ("import os; os._exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM),
    ],
)
def test_how_it_ended_is_seen(code: str, expected: int, ended: Ended) -> None:
    assert ended(code)[0] == expected


def test_a_traceback_is_seen(ended: Ended) -> None:
    said = ended("def inner():\n    1 / 0\ninner()")[1]
    assert "ZeroDivisionError: division by zero" in said
    assert "program.py" in said


def test_it_has_its_own_words_folder_variables_and_session(ended: Ended, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "print(sys.argv[1:], os.getcwd(), os.environ['MINE'], 'HOME' in os.environ, os.getsid(0) == os.getpid())\n"
        "print('wrong', file=sys.stderr)\n"
        "assert __name__ == '__main__'\n"
    )
    assert ended(code, "a b", "c", MINE="7") == (0, f"['a b', 'c'] {tmp_path} 7 True True\nwrong\n")
    assert "MINE" not in os.environ


def test_torch_has_as_many_threads_as_are_asked_for(ended: Ended) -> None:
    assert ended("import torch; print(torch.get_num_threads())", OMP_NUM_THREADS="1") == (0, "1\n")


def test_variables_that_are_read_on_import_are_those_of_the_process(ended: Ended, tmp_path: Path) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HOME)"
    assert ended(code, HF_HOME=str(tmp_path)) == (0, f"{tmp_path}\n")


@pytest.mark.parametrize("words", [["sft", "none.yaml"], ["schema", "rm"], ["sft", "--no-such"]], ids=" ".join)
def test_it_ends_and_says_what_a_new_process_does(words: list[str], tmp_path: Path) -> None:
    plain = spawn(*words, cwd=tmp_path)
    out, err = plain.communicate(timeout=300)
    forked = Forked(*words, cwd=tmp_path)
    assert forked.wait() == [plain.returncode]
    assert forked.said() == out + err


def test_one_that_is_killed_has_ended(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text("import time; print('here'); time.sleep(300)")
    said = tmp_path / "said"
    process = start("waiting", [], tmp_path, os.environ, said)
    while not (said.exists() and said.read_text()):
        assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
