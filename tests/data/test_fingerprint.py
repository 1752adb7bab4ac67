"""The key of a source: equal bytes, equal key; any change, another."""

import shutil

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.fingerprint import source_fingerprint


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "set"
    (made / "deep").mkdir(parents=True)
    (made / "a.jsonl").write_text('{"text": "a"}')
    (made / "deep" / "b.jsonl").write_text('{"text": "b"}')
    (made / "README.md").write_text("not data")
    return made


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_changed_byte_is_another_key(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_bytes(content)
    key = source_fingerprint(str(path))
    assert source_fingerprint(str(path)) == key
    at = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :])
    assert source_fingerprint(str(path)) != key
    path.write_bytes(content + b"\0")
    assert source_fingerprint(str(path)) != key


def test_a_copy_has_the_same_key(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert source_fingerprint(str(folder)) == source_fingerprint(str(tmp_path / "copy"))
    assert source_fingerprint(str(folder)) == source_fingerprint(f"file://{folder}")
    (folder / "README.md").write_text("changed, and not read")
    assert source_fingerprint(str(folder)) == source_fingerprint(str(tmp_path / "copy"))


def test_names_order_and_borders_of_files_count(folder):
    keys = {source_fingerprint(str(folder)), source_fingerprint(f"{folder}/*.jsonl")}
    (folder / "deep" / "b.jsonl").rename(folder / "deep" / "c.jsonl")
    keys.add(source_fingerprint(str(folder)))
    (folder / "a.jsonl").write_text('{"text": "a"}{"text"')
    (folder / "deep" / "c.jsonl").write_text(': "b"}')
    keys.add(source_fingerprint(str(folder)))
    (folder / "d.jsonl").write_text("")
    keys.add(source_fingerprint(str(folder)))
    assert len(keys) == 5


def test_remote_files_have_the_key_of_their_file_system():
    system = MemoryFileSystem()
    system.pipe("/keys/a.jsonl", b'{"text": "a"}')
    key = source_fingerprint("memory://keys/a.jsonl")
    assert source_fingerprint("memory://keys/a.jsonl") == key
    system.pipe("/keys/a.jsonl", b'{"text": "b"}')
    assert source_fingerprint("memory://keys/a.jsonl") != key
    system.store.clear()
    with pytest.raises(DataError, match="cannot be read: FileNotFoundError"):
        source_fingerprint("memory://keys/a.jsonl")


def test_no_files_no_key(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        source_fingerprint(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(("place", "seen"), [(0, True), (5, True), (1_500_000, False), (3_999_999, True)])
def test_a_streamed_file_is_known_by_its_size_and_its_ends(tmp_path, place, seen):
    path = tmp_path / "rows.jsonl"
    content = bytearray(b"x" * 4_000_000)
    path.write_bytes(content)
    streamed, whole = source_fingerprint(str(path), streaming=True), source_fingerprint(str(path))
    content[place] ^= 1
    path.write_bytes(content)
    assert (source_fingerprint(str(path), streaming=True) != streamed) is seen
    assert source_fingerprint(str(path)) != whole
    path.write_bytes(content + b"x")
    assert source_fingerprint(str(path), streaming=True) != streamed
