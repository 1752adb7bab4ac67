"""Compiled kernels lie in ftune's cache, or where the environment says."""

import os
from pathlib import Path

import pytest

from ftune.core.kernels import VARIABLE, keep_kernels


@pytest.mark.parametrize("named", [None, "/tmp/torchinductor_somebody", "/data/mine"])
def test_a_folder_that_somebody_chose_is_kept(
    named: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path))
    monkeypatch.setenv(VARIABLE, named or "")
    if named is None:
        monkeypatch.delenv(VARIABLE)
    keep_kernels()
    assert os.environ[VARIABLE] == (named if named == "/data/mine" else str(tmp_path / "kernels"))
