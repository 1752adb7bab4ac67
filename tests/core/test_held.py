"""Folders that another process is writing."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftune.core.checkpoints import STAGING, commit_folder, stage_folder, verify
from ftune.core.errors import CheckpointError
from tests.conversing import conversing

WRITER = """
import sys
from pathlib import Path
from ftune.core.checkpoints import commit_folder, stage_folder
staging, target = stage_folder(Path(sys.argv[1])), Path(sys.argv[1])
(staging / "weights").write_bytes(b"theirs")
print("writing", flush=True)
sys.stdin.readline()
commit_folder(staging, target)
print("written", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which is writing `theirs`; told so, it puts that in place, and told again it ends."""
    with conversing(WRITER, str(tmp_path / "theirs"), begins="writing") as process:
        yield process


def test_processes_write_side_by_side(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    ours = stage_folder(tmp_path / "ours")
    with pytest.raises(CheckpointError, match="theirs: another process is writing it"):
        stage_folder(tmp_path / "theirs")
    (ours / "weights").write_bytes(b"ours")
    commit_folder(ours, tmp_path / "ours")
    other.stdin.write("on\n")
    other.stdin.flush()
    assert other.stdout.readline() == "written\n"
    assert (tmp_path / "theirs" / "weights").read_bytes() == b"theirs"
    assert verify(tmp_path / "theirs") == verify(tmp_path / "ours") == []
    assert not (tmp_path / STAGING).exists()
    commit_folder(stage_folder(tmp_path / "theirs"), tmp_path / "theirs")  # it is alive, but done with it


def test_what_a_killed_process_was_writing_is_nobodys(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert list(stage_folder(tmp_path / "theirs").iterdir()) == []
