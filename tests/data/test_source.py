"""Reading rows: every kind of file with its places, and a one-line cause for every kind of damage."""

import gzip
import json
import os
import subprocess
import sys
import time

import pytest

from ftune.core.errors import DataError
from ftune.data.reference import SUFFIXES
from ftune.data.source import READERS, BadRow, Row, read_rows, strict

ROWS = [{"text": "one"}, {"text": "two\nlines"}, {"text": "drei – ü"}]
JSON_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
JSON_LIST = json.dumps(ROWS, indent=2, ensure_ascii=False)
CSV = 'text\none\n"two\nlines"\ndrei – ü\n'


def read(path, **options):
    return list(strict(read_rows(str(path), **options)))


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fault(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.jsonl", JSON_LINES, [1, 2, 3]),
        ("rows.json", JSON_LIST, [2, 5, 8]),
        ("rows.json", JSON_LINES, [1, 2, 3]),
        ("rows.jsonl", JSON_LIST, [2, 5, 8]),
        ("rows.jsonl", "\n\n" + JSON_LINES.replace("\n", "\r\n"), [3, 4, 5]),
        ("rows.json", json.dumps(ROWS), [1, 1, 1]),
        ("rows.data", JSON_LINES, [1, 2, 3]),
        ("rows.csv", CSV, [2, 3, 5]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_the_same_rows_from_every_file_with_their_lines(tmp_path, name, content, lines, encoding):
    raw = gzip.compress(content.encode()) if encoding == "gzip" else content.encode(encoding)
    path = written(tmp_path, name, raw)
    rows = read(path)
    assert [row.values for row in rows] == ROWS
    assert [row.line for row in rows] == lines
    assert {row.file for row in rows} == {str(path)}


def test_parquet_rows_are_numbered(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({"text": ["one", None]}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [
        Row({"text": "one"}, str(tmp_path / "rows.parquet"), 1),
        Row({"text": None}, str(tmp_path / "rows.parquet"), 2),
    ]


def test_tsv_has_no_quoting(tmp_path):
    table = written(tmp_path, "rows.tsv", 'text\tlabel\n"odd\t1\n')
    assert [(row.values, row.line) for row in read(table)] == [({"text": '"odd', "label": "1"}, 2)]


def test_a_folder_is_all_its_files_sorted(tmp_path):
    written(tmp_path, "b.jsonl", '{"text": "b"}')
    written(tmp_path, "a.csv", "text\na\n")
    written(tmp_path, "README.md", "not data")
    written(tmp_path, ".hidden.csv", "not data")
    written(tmp_path, "dataset_info.json", "{}")
    (tmp_path / ".cache").mkdir()
    written(tmp_path, ".cache/c.csv", "not data")
    assert [row.values["text"] for row in read(tmp_path)] == ["a", "b"]


def test_columns_are_renamed_and_others_stay(tmp_path):
    path = written(tmp_path, "rows.jsonl", '{"question": "1+1", "answer": "2", "id": 7}\n{"question": "no answer"}\n')
    rows = read(path, columns={"prompt": "question", "completion": "answer"})
    assert [row.values for row in rows] == [{"id": 7, "prompt": "1+1", "completion": "2"}, {"prompt": "no answer"}]


def test_a_missing_column_lists_what_exists(tmp_path):
    path = written(tmp_path, "rows.csv", "question,answer\na,b\n")
    assert fault(path, columns={"prompt": "questoin"}) == (
        f"{path}: there is no column 'questoin' to rename; did you mean 'question'?"
    )
    assert "answer, question" in fault(path, columns={"prompt": "zzz"})


DEEP = '{"text": ' + "[" * 100_000

BAD = [
    ("rows.jsonl", "", ": there are no rows in it"),
    ("rows.json", "[]", ": there are no rows in it"),
    ("rows.csv", "text\n", ": there are no rows in it"),
    ("rows.txt", "\n \n", ": there are no rows in it"),
    ("rows.json", '[{"text": "a"},\n {"text": "b', ":2:11: truncated JSON: unterminated string"),
    ("rows.json", '[{"text": "a"},\n {"text": "b"}', ":2:15: truncated JSON: "),
    ("rows.json", '[{"text": "a"},\n {"text": "b"}, ', ":2:17: truncated JSON: "),
    ("rows.json", '[{"text": "a"}\n {"text": "b"}]', ":2:2: not valid JSON: expecting ',' delimiter"),
    ("rows.json", '[{"text": "a"}]\n[{"text": "b"}]', ":2: '[{"),
    ("rows.json", '[{"text": "a"}, 3]', ":1: this item of the list is the number 3"),
    ("rows.json", "null", ":1: this line is null; a row is a JSON object"),
    ("rows.jsonl", '{"text": "a"}\n{"text": "b"', ":2:13: truncated JSON: "),
    ("rows.jsonl", '{"text": "a"}\n{"text": "b\n{"text": "c"}\n', ":2:10: truncated JSON: unterminated string"),
    ("rows.jsonl", "{'text': nan}\n", ":1:2: not valid JSON: expecting property name"),
    ("rows.jsonl", '{"text": "a"} ["b"]\n', ":1:15: '[\"b\"]' follows the row"),
    ("rows.jsonl", '{"text": "a"}\n["b"]\n', ":2: this line is a list of 1; a row is a JSON object"),
    ("rows.jsonl", '{"text": ' + "1" * 5000 + "}\n", ":1:1: a whole number of more than 4,300 digits cannot be read"),
    ("rows.jsonl", DEEP, ":1: nested too deeply to be a row"),
    ("rows.json", f"[{DEEP}", ":1: nested too deeply to be a row"),
    ("rows.csv", "a,b\n1,2\n1,2,3\n", ":3: 3 columns, but the header has 2 (a, b)"),
    ("rows.csv", "a,b\n1\n", ":2: 1 column, but the header has 2 (a, b)"),
    ("rows.csv", "a,a\n1,2\n", ":1: the header names the column 'a' more than once"),
    ("rows.csv", 'a,b\n1,"2\n3,4\n', ":2: broken quoting in the row that begins here"),
    ("rows.jsonl", b'{"text": "a"}\n\xff', ":2:1: byte 0xff is not text in the encoding of this file"),
    ("rows.json", '[{"text": "a"}]'.encode("utf-16")[:-1], ":1:15: byte 0x5d is not text in the encoding"),
    ("rows.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0)[:10], ": the gzip data is damaged or cut off"),
    ("rows.jsonl", "version https://git-lfs.github.com/spec/v1\n", ": this is only a Git LFS pointer to the data"),
    ("rows.parquet", "PAR1 nonsense", ": not a readable Parquet file"),
    ("rows.xlsx", b"PK\x03\x04", ": files of this kind are not supported"),
]


@pytest.mark.parametrize(("name", "content", "cause"), BAD)
def test_damage_has_its_place_and_its_cause(tmp_path, name, content, cause):
    path = written(tmp_path, name, content)
    message = fault(path)
    assert message.startswith(f"{path}{cause}")
    assert "\n" not in message


def test_ten_faults_are_told_at_once(tmp_path):
    path = written(tmp_path, "rows.jsonl", '{"text": "a"}\n' + "oops\n" * 20)
    lines = fault(path).splitlines()
    assert [line.split(": ")[0] for line in lines[:10]] == [f"{path}:{number}:1" for number in range(2, 12)]
    assert lines[10:] == [f"{path}: reading stopped after 10 faults"]


def test_a_damaged_row_stands_between_the_others(tmp_path):
    path = written(tmp_path, "rows.jsonl", '{"text": "a"}\noops\n{"text": "b"}\n')
    assert list(read_rows(str(path))) == [
        Row({"text": "a"}, str(path), 1),
        BadRow(str(path), 2, 1, "not valid JSON: expecting value"),
        Row({"text": "b"}, str(path), 3),
    ]


def test_a_row_of_ten_megabytes_is_read(tmp_path):
    path = written(tmp_path, "rows.csv", "text\n" + "x" * 10_000_000 + "\n")
    assert len(read(path)[0].values["text"]) == 10_000_000


def test_no_such_file_has_a_suggestion(tmp_path):
    written(tmp_path, "train.jsonl", JSON_LINES)
    message = fault(tmp_path / "trian.jsonl")
    assert message.startswith(f"no such file or folder '{tmp_path}/trian.jsonl'; did you mean '")
    assert message.endswith("/train.jsonl'?")
    assert "there is no folder" in fault(tmp_path / "nowhere" / "rows.csv")


def test_a_pattern_is_all_files_that_match(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", "d.csv"):
        written(tmp_path, name, json.dumps({"text": name}))
    assert [row.values["text"] for row in read(tmp_path / "*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [row.values["text"] for row in read(tmp_path / "deep" / "**" / "*.jsonl")] == ["deep/er/c.jsonl"]
    assert fault(tmp_path / "*.parquet") == f"no file matches '{tmp_path}/*.parquet'"
    written(tmp_path, "[a].jsonl", '{"text": "brackets"}')
    assert [row.values["text"] for row in read(tmp_path / "[a].jsonl")] == ["brackets"]


def test_home_and_file_urls_are_local_paths(tmp_path, monkeypatch):
    path = written(tmp_path, "rows.jsonl", '{"text": "a"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/rows.jsonl") == read(f"file://{path}") == read(path)


def test_every_kind_of_file_has_a_reader():
    assert tuple(READERS) == SUFFIXES


def test_names_for_columns_need_a_table_without_a_header(tmp_path):
    table = written(tmp_path, "rows.tsv", "fine film\t1\nodd\t0")
    rows = read(table, columns=["text", "label"])
    assert [(row.values, row.line) for row in rows] == [
        ({"text": "fine film", "label": "1"}, 1),
        ({"text": "odd", "label": "0"}, 2),
    ]
    assert fault(table, columns=["text"]).startswith(f"{table}:1: 2 columns, but 'columns' names 1 (text)")
    assert fault(table, columns=["a", "a"]) == "'columns' names 'a' more than once"
    assert "these rows have names" in fault(written(tmp_path, "rows.jsonl", JSON_LINES), columns=["text"])


def test_an_empty_folder_is_refused(tmp_path):
    assert "holds no data files; supported: .json" in fault(tmp_path)


def test_a_hub_set_without_network_names_the_way_out(tmp_path):
    code = (
        "from ftune.core.errors import DataError\nfrom ftune.data.source import read_rows\n"
        "try:\n    list(read_rows('nobody/nothing'))\nexcept DataError as error:\n    print(error)"
    )
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | offline, capture_output=True, timeout=100)
    message = done.stdout.decode()
    assert message.startswith("nobody/nothing: no such file or folder here"), done.stderr.decode()
    assert "the hub cannot be reached" in message
    assert "without network" in message


def test_a_call_that_never_ends_is_left_behind():
    from ftune.data.readers.hub import within

    with pytest.raises(TimeoutError, match="no answer within"):
        within(0.05, lambda: time.sleep(5))
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    assert within(5, lambda: 7) == 7


def test_a_streamed_hub_set_is_known_by_its_commit(monkeypatch):
    from ftune.data.readers import hub

    monkeypatch.setattr(hub, "_probe", lambda path, revision: ("c0ffee", ""))
    of = {"name": "main", "split": "test", "revision": None, "streaming": True}
    assert hub.hub_fingerprint("org/set", **of) == "org/set c0ffee main test"
    monkeypatch.setattr(hub, "_probe", lambda path, revision: ("", "404 not found"))
    with pytest.raises(DataError, match=r"org/set: no such file .* 404 not found"):
        hub.hub_fingerprint("org/set", **of)
