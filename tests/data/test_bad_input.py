"""Data as people have it: each kind of damage is read right, or told with file, line and cause."""

import codecs
import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.reference import SUFFIXES
from ftune.data.source import BadRow, Row, read_rows, strict

TRUTH: list[dict[str, object]] = [
    {"instruction": "Say hi", "output": "Hi – there"},
    {"instruction": "Zähle", "output": "eins\nzwei"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TRUTH)
LIST = json.dumps(TRUTH, indent=2, ensure_ascii=False)
TABLE = 'instruction,output\nSay hi,Hi – there\nZähle,"eins\nzwei"\n'
WRAPPED = {"version": "1.0", "data": TRUTH}

READ_RIGHT = {
    "mark at the beginning": ("rows.jsonl", codecs.BOM_UTF8 + LINES.encode()),
    "mark before a list": ("rows.json", codecs.BOM_UTF8 + LIST.encode()),
    "mark before a header": ("rows.csv", codecs.BOM_UTF8 + TABLE.encode()),
    "marks where files were joined": ("rows.jsonl", ("\ufeff" + "\ufeff".join(LINES.splitlines(True))).encode()),
    "line ends of Windows": ("rows.jsonl", LINES.replace("\n", "\r\n").encode()),
    "line ends of Windows in a list": ("rows.json", LIST.replace("\n", "\r\n").encode()),
    "line ends of old Macs": ("rows.jsonl", LINES.replace("\n", "\r").encode()),
    "UTF-16": ("rows.jsonl", LINES.encode("utf-16")),
    "UTF-16 without a mark": ("rows.jsonl", LINES.encode("utf-16-le")),
    "UTF-16 of the other order": ("rows.json", LIST.encode("utf-16-be")),
    "UTF-16 table": ("rows.csv", TABLE.encode("utf-16")),
    "UTF-32": ("rows.json", LIST.encode("utf-32")),
    "a list in .jsonl": ("rows.jsonl", LIST.encode()),
    "a list on one line in .jsonl": ("rows.jsonl", json.dumps(TRUTH).encode()),
    "JSON Lines in .json": ("rows.json", LINES.encode()),
    "no end of the last line": ("rows.jsonl", LINES.rstrip().encode()),
    "blank lines": ("rows.jsonl", ("\n" + LINES.replace("\n", "\n \n")).encode()),
    "objects over many lines": ("rows.jsonl", "\n".join(json.dumps(row, indent=2) for row in TRUTH).encode()),
    "two objects on a line": ("rows.jsonl", LINES.replace("\n", " ").encode()),
    "gzip under a wrong name": ("rows.jsonl", gzip.compress(LINES.encode())),
    "gzip under no name": ("rows", gzip.compress(LINES.encode())),
    "not gzip under its name": ("rows.jsonl.gz", LINES.encode()),
    "rows under a key": ("rows.json", json.dumps(WRAPPED, indent=1).encode()),
    "rows under a key on one line": ("rows.jsonl", json.dumps(WRAPPED).encode()),
    "rows under the key of the split": ("rows.json", json.dumps({"train": TRUTH, "test": [{"a": 1}]}).encode()),
    "Python literals, one a line": ("rows.jsonl", "\n".join(map(repr, TRUTH)).encode()),
    "a Python list": ("rows.json", repr(TRUTH).encode()),
    "a Python object that wraps": ("rows.json", repr(WRAPPED).encode()),
    "a comma behind the last item": ("rows.json", LIST.replace("}\n]", "},\n]").encode()),
    "a table separated by semicolons": ("rows.csv", TABLE.replace(",", ";").encode()),
    "a table separated by tabs in .csv": ("rows.csv", TABLE.replace(",", "\t").encode()),
    "a raw newline in a string": ("rows.json", LIST.replace("\\n", "\n").encode()),
}


@pytest.mark.parametrize("kind", READ_RIGHT)
def test_read_right(tmp_path, kind):
    name, content = READ_RIGHT[kind]
    (tmp_path / name).write_bytes(content)
    assert [row.values for row in read_rows(str(tmp_path / name))] == TRUTH


GOOD = '{"text": "good"}'
PASSED_ON = {
    "keys with blanks and capitals": '{" Instruction ": "a", "OUTPUT": "b"}',
    "numbers and lists where text should be": '{"text": 5, "output": ["a"], "input": {"b": null}}',
    "null, blank and empty fields": '{"text": null, "output": " ", "input": ""}',
    "control characters": '{"text": "bell \\u0007, raw \x07 \x00 \x1b[0m\t"}',
    "half a character": '{"text": "\\ud83d alone"}',
    "another layout": '{"messages": [{"role": "user", "content": "a"}]}',
    "an empty object": "{}",
}


@pytest.mark.parametrize("kind", PASSED_ON)
def test_what_is_json_is_passed_on_for_the_format_to_judge(tmp_path, kind):
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n{PASSED_ON[kind]}\n{GOOD}\n")
    rows = list(read_rows(str(tmp_path / "rows.jsonl")))
    assert [row.values for row in rows] == [
        {"text": "good"},
        json.loads(PASSED_ON[kind], strict=False),
        {"text": "good"},
    ]
    assert [row.line for row in rows] == [1, 2, 3]


def test_not_a_number_is_passed_on(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": NaN, "score": -Infinity}\n')
    (row,) = read_rows(str(tmp_path / "rows.jsonl"))
    assert math.isnan(row.values["text"])
    assert row.values["score"] == -math.inf


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_row_of_ten_megabytes_between_others(tmp_path, name):
    huge = "x" * 10_000_000
    lines = ["text", "good", huge, "good"] if name == "rows.csv" else [GOOD, json.dumps({"text": huge}), GOOD]
    text = f"[{','.join(lines)}]" if name == "rows.json" else "\n".join(lines)
    (tmp_path / name).write_text(text)
    assert [len(row.values["text"]) for row in read_rows(str(tmp_path / name))] == [4, 10_000_000, 4]


BAD_ROWS = {
    "cut off": ('{"text": "b', ":2:10: truncated JSON: unterminated string; the file is cut off"),
    "cut off behind a comma": ('{"text": "b",', ":2:14: truncated JSON: expecting property name"),
    "a key twice": ('{"output": "a", "output": "b"}', ":2: key 'output' is given twice"),
    "no object": ("null", ":2: this line is null; a row is a JSON object"),
    "a list": ('["a", "b"]', ":2: this line is a list of 2; a row is a JSON object"),
    "no JSON": ("text: b", ":2:1: not valid JSON: expecting value"),
    "a comment": ("// text", ":2:1: not valid JSON: expecting value"),
    "Python that is no literal": ("{'text': nan}", ":2:2: not valid JSON: expecting property name"),
    "a backslash": (r'{"text": "C:\dir"}', ":2:13: not valid JSON: invalid \\escape"),
    "a comma behind the object": ('{"text": "b"},', ":2:14: ',' follows the row; one JSON object a line"),
    "nested too deeply": ('{"text": ' + "[" * 100_000, ":2: nested too deeply to be a row"),
    "a number without an end": (
        '{"text": ' + "1" * 5000 + "}",
        ":2:1: a whole number of more than 4,300 digits cannot be read",
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_damaged_row_is_told_and_the_others_are_read(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    text, cause = BAD_ROWS[kind]
    path.write_text(f"{GOOD}\n{text}\n{GOOD}\n")
    rows = list(read_rows(str(path)))
    assert [row.line for row in rows] == [1, 2, 3]
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    with pytest.raises(DataError) as error:
        list(strict(read_rows(str(path))))
    assert str(error.value).startswith(f"{path}{cause}")


def test_latin_1_costs_no_other_row_and_is_read_when_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f'{GOOD}\n{{"text": "café"}}\n{GOOD}\n'.encode("latin-1"))
    assert [row.values["text"] for row in read_rows(str(path))] == ["good", "caf\udce9", "good"]
    assert [row.values["text"] for row in read_rows(str(path), encoding="latin-1")] == ["good", "café", "good"]


UNREADABLE = {
    "empty": ("rows.jsonl", "", ": there are no rows in it"),
    "blank": ("rows.jsonl", "\n \n", ": there are no rows in it"),
    "an empty list": ("rows.json", "[]", ": there are no rows in it"),
    "only a header": ("rows.csv", "text\n", ": there are no rows in it"),
    "columns": (
        "rows.json",
        '{"text": ["a", "b"], "label": [0, 1]}',
        ":1: the file is one object of columns, with keys",
    ),
    "a registry": ("rows.json", '{"a": {"x": 1}, "b": {"x": 2}}', ":1: the file is one object of objects, with keys"),
    "other splits": (
        "rows.json",
        '{"dev": [{"a": 1}], "test": [{"a": 1}]}',
        ":1: the one object in the file has no rows",
    ),
    "a page": ("rows.html", "<!DOCTYPE html>", ": files of this kind are not supported, and it does not look like"),
    "a pointer": ("rows.parquet", "version https://git-lfs.github.com/spec/v1", ": this is only a Git LFS pointer"),
    "not what its name says": ("rows.parquet", LINES, ": not a readable Parquet file"),
    "a column name twice": ("rows.csv", "text,text\na,b\n", ":1: the header names the column 'text' more than once"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_at_all_is_one_error(tmp_path, kind):
    name, content, cause = UNREADABLE[kind]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as error:
        list(read_rows(str(tmp_path / name)))
    assert str(error.value).startswith(f"{tmp_path / name}{cause}")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".gz", ".zst", ""])
@given(data=st.data())
def test_no_bytes_make_it_fail_otherwise_than_by_a_data_error(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    whole = data.draw(st.sampled_from([content for _, content in READ_RIGHT.values()]))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8) | st.just(b"\n")) + whole[end:])
    try:
        rows = list(read_rows(str(path), documents=data.draw(st.sampled_from(["file", "line"]))))
        places = [row.origin for row in rows]
    except DataError as error:
        places = str(error).splitlines()
    assert all(place.startswith(f"{path}:") for place in places)
