"""A run's folder belongs to one process at a time, and to nobody once that has ended."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftune.core.errors import RecipeError
from ftune.report.run_folder import RunFolder

RUN = """
import sys
from pathlib import Path
from ftune.report.run_folder import RunFolder
folder = RunFolder.open(Path(sys.argv[1]), {}, "", resume=False, overwrite=False)
with folder.recording():
    print("training", flush=True)
    sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which trains in `run` until it is told to end that."""
    words = [sys.executable, "-c", RUN, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"
        yield process
        process.kill()


def taken(path: Path, *, resume: bool) -> RunFolder:
    return RunFolder.open(path, {}, "", resume=resume, overwrite=not resume)


@pytest.mark.parametrize("resume", [True, False])
def test_nobody_else_goes_on_or_starts_anew_while_it_trains(
    tmp_path: Path, other: subprocess.Popen[str], resume: bool
) -> None:
    with pytest.raises(RecipeError, match=r"output_dir: .*run: another process is training there; wait for its end"):
        taken(tmp_path / "run", resume=resume)
    print(file=other.stdin, flush=True)
    assert other.stdout.readline() == "done\n"
    with taken(tmp_path / "run", resume=resume).recording():
        pass


def test_a_killed_run_can_be_resumed_at_once(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    with taken(tmp_path / "run", resume=True).recording():
        pass


def test_a_child_that_outlives_it_does_not_keep_the_folder(tmp_path: Path) -> None:
    forks = RUN.replace('print("training"', 'os.fork() or os.read(0, 1)\n    print("training"', 1)
    words = [sys.executable, "-c", f"import os{forks}", str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"  # the parent's: the child, as a loader's worker does, waits
        process.kill()
        process.wait()
        with taken(tmp_path / "run", resume=True).recording():
            pass
