"""Compression, encodings and places of files: the same rows come out of all of them."""

import bz2
import gzip
import importlib.util
import json
import lzma
import sys
from functools import partial

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from ftune.core.errors import DataError
from ftune.data.reference import check_path, is_hub_id, is_remote, suffix_of
from ftune.data.source import BadRow, Row, read_rows

ROWS = [{"text": "one"}, {"text": "drei – ü"}, {"text": "四"}]
JSON_LINES = '{"text": "one"}\n{"text": "drei – ü"}\n{"text": "四"}\n'.encode()


COMPRESSIONS = {"gzip": gzip.compress, "zstd": None, "bzip2": bz2.compress, "xz": partial(lzma.compress, preset=0)}


def compressed(codec, content, tmp_path):
    if codec != "zstd":
        return COMPRESSIONS[codec](content)
    with pa.CompressedOutputStream(str(tmp_path / "packed"), "zstd") as stream:
        stream.write(content)
    return (tmp_path / "packed").read_bytes()


def values(path, **how):
    return [row.values for row in read_rows(str(path), **how)]


@pytest.mark.parametrize("codec", COMPRESSIONS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.json.xz", "rows.dat"])
def test_compression_is_told_by_the_first_bytes(tmp_path, codec, name):
    path = tmp_path / name
    path.write_bytes(compressed(codec, JSON_LINES, tmp_path))
    assert values(path) == ROWS


@pytest.mark.parametrize("codec", COMPRESSIONS)
def test_a_cut_costs_the_rows_behind_it_and_is_told(tmp_path, codec):
    rows = "".join(f'{{"id": "{xxh3_128_hexdigest(str(n).encode())}"}}\n' for n in range(40_000))
    path = tmp_path / "rows.jsonl"
    whole = compressed(codec, rows.encode(), tmp_path)
    path.write_bytes(whole[: len(whole) * 9 // 10])
    found = list(read_rows(str(path)))
    good = [row for row in found if isinstance(row, Row)]
    assert len(good) > 1000
    assert [row.line for row in good] == list(range(1, len(good) + 1))
    assert isinstance(found[-1], BadRow)
    assert found[-1].cause.startswith(f"the {codec} data is damaged or cut off here (")


@pytest.mark.parametrize("codec", COMPRESSIONS)
def test_nothing_but_damage_is_an_error(tmp_path, codec):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(compressed(codec, JSON_LINES, tmp_path)[:10] + b"nonsense" * 4)
    with pytest.raises(DataError, match=f"the {codec} data is damaged or cut off"):
        values(path)


def test_binary_tables_may_be_compressed_too(tmp_path):
    from pyarrow.parquet import write_table

    write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    (tmp_path / "packed.parquet.gz").write_bytes(gzip.compress((tmp_path / "rows.parquet").read_bytes()))
    assert values(tmp_path / "packed.parquet.gz") == ROWS


@pytest.mark.parametrize("name", ["rows.arrow", "rows.feather", "rows"])
@pytest.mark.parametrize("kind", ["new_stream", "new_file"])
def test_arrow_streams_and_files(tmp_path, name, kind):
    table = pa.Table.from_pylist(ROWS * 700)
    with pa.OSFile(str(tmp_path / name), "wb") as sink, getattr(pa.ipc, kind)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1500)
    rows = list(read_rows(str(tmp_path / name)))
    assert [row.values for row in rows] == ROWS * 700
    assert [row.line for row in rows] == list(range(1, 2101))


def test_a_cut_arrow_stream_gives_what_it_holds(tmp_path):
    path, table = tmp_path / "rows.arrow", pa.Table.from_pylist(ROWS * 700)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    *good, bad = read_rows(str(path))
    assert [row.values for row in good] == (ROWS * 700)[: len(good)]
    assert len(good) >= 300
    assert "the Arrow data is damaged or cut off behind this row" in bad.cause
    path.write_bytes(whole[:20])
    with pytest.raises(DataError, match="not a readable Arrow file"):
        values(path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20), st.sampled_from(["", "\ufeff"]))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_encodings_are_told_by_mark_or_nul_bytes(tmp_path_factory, encoding, text, mark):
    path = tmp_path_factory.getbasetemp() / f"{encoding}.jsonl"
    path.write_bytes((mark + json.dumps({"text": text}, ensure_ascii=False)).encode(encoding))
    assert values(path) == [{"text": text}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "txt"])
def test_a_wrong_byte_stays_visible_in_its_row(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    text = '{"text": "café"}\n{"text": "b"}\n' if suffix == "jsonl" else "text\ncafé\nb\n"
    path.write_bytes(text.encode("latin-1"))
    wanted = ["text", "caf\udce9", "b"] if suffix == "txt" else ["caf\udce9", "b"]
    assert [row["text"] for row in values(path, documents="line")] == wanted
    assert values(path, documents="line", encoding="latin-1")[-2:] == [{"text": "café"}, {"text": "b"}]


def test_stray_nul_bytes_are_no_utf_16(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1,\x00\n\x00,2\n")
    assert values(path) == [{"a": "1", "b": "\x00"}, {"a": "\x00", "b": "2"}]


def test_an_unknown_encoding_has_a_suggestion(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JSON_LINES)
    with pytest.raises(DataError, match="there is no text encoding 'latn-1'; did you mean 'latin"):
        values(path, encoding="latn-1")
    for name in ("zzzzzz", "base64", "nul\0"):
        with pytest.raises(DataError, match="use utf-8, utf-16, latin-1"):
            values(path, encoding=name)


@pytest.fixture
def memory():
    system = MemoryFileSystem()
    system.store.clear()
    yield system
    system.store.clear()


def test_remote_files_folders_and_patterns(memory):
    for name in ("set/a.jsonl", "set/deep/b.jsonl.gz", "set/README.md", "set/.hidden.jsonl"):
        with memory.open(f"/{name}", "wb") as file:
            file.write(gzip.compress(JSON_LINES) if name.endswith(".gz") else JSON_LINES)
    assert values("memory://set/a.jsonl") == ROWS
    assert values("memory://set/deep/b.jsonl.gz") == ROWS
    assert values("memory://set") == ROWS * 2
    assert values("memory://set/*.jsonl") == ROWS
    assert values("memory://set/**/*.gz") == ROWS
    assert next(read_rows("memory://set/a.jsonl")).origin == "memory://set/a.jsonl:1"


def test_remote_parquet(memory, tmp_path):
    from pyarrow.parquet import write_table

    write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    memory.put(str(tmp_path / "rows.parquet"), "/rows.parquet")
    assert values("memory://rows.parquet") == ROWS


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("memory://nothing.jsonl", "cannot be read: FileNotFoundError"),
        ("memory://nothing/*.jsonl", "no file matches this pattern"),
        ("nonsense://rows.jsonl", "cannot be read: ValueError: Protocol not known: nonsense"),
    ],
)
def test_what_is_not_there_is_told_with_its_url(memory, url, cause):
    with pytest.raises(DataError) as error:
        values(url)
    assert str(error.value).startswith(f"{url}: {cause}")


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://b/rows.jsonl", "s3fs", "s3"),
        ("gs://b/rows.jsonl", "gcsfs", "gcs"),
        ("https://h/r.csv", "aiohttp", "http"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, url, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert importlib.util.find_spec(module) is None
    assert check_path(url).endswith(f"needs the package {module}; install it with: pip install 'ftune[{extra}]'")
    with pytest.raises(DataError, match=f"pip install 'ftune.{extra}.'"):
        values(url)


def test_what_a_path_is():
    assert is_remote("s3://bucket/x")
    assert not any(map(is_remote, ["file:///x", "org/name", "C:/x", "./x"]))
    assert not any(map(is_hub_id, ["rows.arrow", "rows.json.zst", "s3://bucket/x", "data/*", "rows.jsonl.xz"]))
    assert is_hub_id("org/name.v1")
    assert suffix_of("https://host/rows.JSONL.gz?download=true") == ".jsonl"
    assert suffix_of("/some.where/rows") == ""
