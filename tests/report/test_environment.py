"""What the environment says, and what it must not say."""

import getpass
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ftune import __version__
from ftune.report.environment import environment


def test_versions_machine_and_revision_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["versions"]["ftune"] == __version__
    assert found["versions"]["torch"]
    assert found["cpu"]["threads"] >= 1
    assert found["memory_gib"] > 0.1
    assert json.loads(json.dumps(found)) == found


def test_nothing_names_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrst")
    text = json.dumps(environment())
    for private in (socket.gethostname(), f"/{getpass.getuser()}", str(Path.home()), "hf_abc"):
        assert private not in text


def test_the_git_revision_knows_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment()["git"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    clean = environment()["git"]
    assert len(clean["revision"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert environment()["git"] == {"revision": clean["revision"], "dirty": True}


def test_a_machine_without_git_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git"] is None


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from ftune.report.environment import environment; environment(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
