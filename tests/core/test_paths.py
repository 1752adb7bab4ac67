"""Where ftune looks, on machines whose users have no home."""

from pathlib import Path

import pytest

from ftune.core.errors import StorageError
from ftune.core.paths import cache_dir, expanded, home_dir
from ftune.launch.doctor.finding import Finding, without_names
from ftune.report.markdown import private


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user of whom the machine knows nothing else."""

    def unknown(self: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.delenv("FTUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_user_without_a_home_is_told_where_the_cache_can_be(no_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_dir() is None
    assert private("/a/b") == without_names("/a/b") == "/a/b"
    with pytest.raises(StorageError, match="no home folder to keep a cache in; set FTUNE_CACHE to a folder"):
        cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/c")
    assert cache_dir() == Path("/tmp/c/ftune")


def test_the_home_of_an_unknown_user_stays_as_it_is_written() -> None:
    assert expanded("~no-such-user/m") == Path("~no-such-user/m")
    assert expanded("~/m") == Path.home() / "m"


def test_a_home_at_the_root_takes_no_slashes_from_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert private("/work/rows.jsonl") == "/work/rows.jsonl"


def test_the_doctor_says_what_a_run_without_a_home_would_end_with(no_home: None) -> None:
    from ftune.launch.doctor.checkup import _run

    done: dict[str, list[Finding]] = {}
    _run("disk", lambda: [Finding("ok", "disk", str(cache_dir()))], done)
    said = "this user has no home folder to keep a cache in"
    assert done == {"disk": [Finding("error", "disk", said, "set FTUNE_CACHE to a folder")]}
