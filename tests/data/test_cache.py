"""The cache of prepared rows: found again, made once, and never found when anything that matters has changed."""

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import DataError, StorageError
from ftune.data.cache import UNUSED_DAYS, cache_key, cached, tokenizer_fingerprint
from ftune.data.intake import Rules
from ftune.data.mix import chained
from ftune.data.prepare import prepare
from ftune.data.row import Row


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass(frozen=True)
class Maker:
    """Makes a small entry, and leaves a mark each time that it does."""

    tokenizer: Any
    marks: Path

    def __call__(self, folder):
        """The entry's rows."""
        with self.marks.open("a") as marks:
            marks.write("x")
        rows = [Row({"text": f"The sea {n}."}, "rows.jsonl", n) for n in range(1, 6)]
        return prepare(rows, None, self.tokenizer, None, Rules(), folder=folder)


@pytest.fixture
def maker(smollm2, tmp_path):
    return Maker(smollm2.tokenizer, tmp_path / "made")


def times(tmp_path):
    return len((tmp_path / "made").read_text())


def test_an_entry_is_made_once_and_found_again(maker, tmp_path):
    first, second = cached("key", maker), cached("key", maker)
    assert times(tmp_path) == 1
    assert chained([first]).fingerprint == chained([second]).fingerprint
    assert [first.table.ids_of(row) for row in range(5)] == [second.table.ids_of(row) for row in range(5)]
    assert (first.counts, first.checks, first.reason) == (second.counts, second.checks, second.reason)
    assert second.table.origin_of(4) == "rows.jsonl:5"
    cached("other", maker)
    assert times(tmp_path) == 2


def test_what_no_run_has_opened_for_long_is_dropped(maker, tmp_path, own_cache):
    long_ago = time.time() - (UNUSED_DAYS + 1) * 24 * 3600
    for key in ("unused", "used"):
        cached(key, maker)
        os.utime(own_cache / "data" / key, (long_ago, long_ago))
    cached("used", maker)
    cached("new", maker)
    assert times(tmp_path) == 3
    assert {path.name for path in (own_cache / "data").iterdir()} == {"used", "new"}


def test_a_damaged_entry_is_made_again(maker, tmp_path, own_cache):
    before = cached("key", maker).table.ids_of(0)
    ids = own_cache / "data" / "key" / "rows" / "ids.bin"
    content = bytearray(ids.read_bytes())
    content[5] ^= 1
    ids.write_bytes(content)
    assert cached("key", maker).table.ids_of(0) == before
    assert times(tmp_path) == 2


def test_a_failure_leaves_no_entry(maker, tmp_path, own_cache):
    def fail(folder):
        maker(folder)
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cached("key", fail)
    assert not (own_cache / "data" / "key" / "rows").exists()
    assert len(cached("key", maker).table) == 5


def test_processes_that_want_the_same_entry_make_it_once(maker, tmp_path):
    context = multiprocessing.get_context("spawn")  # not what the other tests of this process may have left behind
    workers = [context.Process(target=cached, args=("key", maker)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert times(tmp_path) == 1


def test_another_tokenizer_has_another_fingerprint(smollm2, family_of):
    assert tokenizer_fingerprint(smollm2.tokenizer) == tokenizer_fingerprint(smollm2.tokenizer)
    assert tokenizer_fingerprint(smollm2.tokenizer) != tokenizer_fingerprint(family_of("qwen3").tokenizer)
    more = family_of("smollm2").tokenizer
    before = tokenizer_fingerprint(more)
    more.add_tokens(["<new>"])
    assert tokenizer_fingerprint(more) != before


def test_the_code_of_the_step_is_part_of_the_key(monkeypatch):
    before = cache_key({"a": 1})
    assert before == cache_key({"a": 1})
    assert before != cache_key({"a": 2})
    monkeypatch.setattr("ftune.data.cache._code", lambda: "changed")
    assert cache_key({"a": 1}) != before


def test_the_code_hash_covers_every_file_of_the_data_layer(monkeypatch, tmp_path):
    import ftune.data.cache as module

    code = module._code.__wrapped__
    (tmp_path / "formats").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cache.py"))
    before = code()
    (tmp_path / "formats" / "new.py").write_text("x = 1")
    with_file = code()
    (tmp_path / "formats" / "new.py").write_text("x = 2")
    assert len({before, with_file, code()}) == 3
    assert Path(module.__file__) == tmp_path / "cache.py"


def test_a_cache_that_cannot_be_written_to_says_how_to_have_another(maker, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"Not a directory; check the path.*FTUNE_CACHE puts into another"):
        cached("key", maker)
