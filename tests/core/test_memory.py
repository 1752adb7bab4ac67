"""Memory that is free."""

import os
from pathlib import Path

import pytest

from ftune.core import memory


def test_what_is_kept_of_files_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:       65536000 kB\nMemFree:  1024 kB\nMemAvailable:   2097152 kB\nCached: 3000000 kB\n"
    )
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    assert memory.free_memory() == 2 * 2**30
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert 0 < memory.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
