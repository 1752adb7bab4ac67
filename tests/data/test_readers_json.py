"""JSON in every shape that holds rows; damage costs the row that it is in."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.formats.detect import detect
from ftune.data.readers import options, window
from ftune.data.readers.json_rows import json_rows
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import BadRow, Row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=2, max_size=5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "rows.json"


def read(path, text, **how):
    path.write_text(text, encoding="utf-8", newline="")
    return list(json_rows(DataFile(str(path)), Options(**how)))


def values(rows):
    return [row.values if isinstance(row, Row) else row.cause for row in rows]


@given(ROWS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.integers(1, 40))
def test_rows_are_read_back_from_lists_and_from_objects_one_after_another(path, rows, indent, as_list, chunk):
    text = json.dumps(rows, indent=indent) if as_list else "\n".join(json.dumps(row, indent=indent) for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "CHUNK", chunk)
        found = read(path, text)
    assert values(found) == rows
    lines = text.splitlines()
    assert all("{" in lines[row.line - 1] for row in found)


@given(ROWS, st.sampled_from([None, 1]))
def test_python_literals_are_read_where_json_fails(path, rows, indent):
    rows[0]["nothing"] = None
    remarks = []
    text = repr(rows) if indent is None else "\n".join(map(repr, rows))
    assert values(read(path, text, remark=remarks.append)) == rows
    assert remarks == [f"{path}: rows are Python literals (written with repr or str), not JSON"]


def test_keys_of_python_literals_are_texts_as_those_of_json_are(path):
    """A table whose header is broken has numbers for names; nothing that reads rows knows other keys than texts."""
    row = {"id": "the cat", 0: None, None: [{True: ("a", {2: "b"})}]}
    found = values(read(path, f"{row!r}\n" * 2))
    assert found == [{"id": "the cat", "0": None, "None": [{"True": ["a", {"2": "b"}]}]}] * 2
    with pytest.raises(DataError, match="the layout of this row is not known: found keys 'id', '0' and 'None'"):
        detect([Row(found[0], "rows.json", 1)])


@given(ROWS, st.integers(0, 4), st.integers(1, 40), st.booleans())
def test_one_damaged_row_costs_that_row(path, rows, index, chunk, as_list):
    rows = [{"id": number, "row": row} for number, row in enumerate(rows)]
    index %= len(rows)
    lines = [json.dumps(row) for row in rows]
    lines[index] = lines[index][:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "CHUNK", chunk)
        found = read(path, "[" + ",\n".join(lines) + "]" if as_list else "\n".join(lines))
    assert [row.line for row in found] == list(range(1, len(rows) + 1))
    assert [row.values["id"] for row in found if isinstance(row, Row)] == [n for n in range(len(rows)) if n != index]
    assert isinstance(found[index], BadRow)


DAMAGE = [
    ('{"a": 1}\n{"a": "b\n{"a": 2}\n', [1, (2, 7, "truncated JSON: unterminated string"), 2]),
    ('{\n "a": "b\n}\n{\n "a": 2\n}', [(2, 7, "truncated JSON: unterminated string"), 2]),
    ('{"a": 1,\n{"a": 2}', [(1, 9, "truncated JSON: expecting property name"), 2]),
    ('[{"a": 1},\n {"a": "b},\n {"a": 2}]', [1, (2, 8, "truncated JSON: unterminated string"), 2]),
    ('[\n  {\n    "a": [\n      {"b": x}\n    ]\n  },\n  {"a": 2}\n]', [(4, 13, "not valid JSON: expecting value"), 2]),
    ('[{"a": 1}\n {"a": 2}]', [1, (2, 2, "not valid JSON: expecting ',' delimiter"), 2]),
    ('[{"a": 1} x,\n {"a": 2}]', [1, (1, 11, "not valid JSON: expecting ',' delimiter"), 2]),
    ('[{"a": 1}, ', [1, (1, 12, "truncated JSON: expecting value")]),
    ('[{"a": 1}, 7, {"a": 2}]', [1, (1, 0, "this item of the list is the number 7"), 2]),
    ('{"a": 1}\n{"a": 2, "a": 3}\n{"a": 4}', [1, (2, 0, "key 'a' is given twice"), 4]),
    ('[{"a": 1, "b": {"c": 1, "c": 2}}, {"a": 4}]', [(1, 0, "key 'c' is given twice"), 4]),
    ('{"a": 1, "a": 2, b}\n{"a": 4}', [(1, 18, "not valid JSON: expecting property name"), 4]),
    ('{"b": {"c": 1, "c": 2}, b}\n{"a": 4}', [(1, 0, "key 'c' is given twice"), 4]),
    ('{"a": 1},\n{"a": 2},\n', [(1, 9, "',' follows the row"), (2, 9, "',' follows the row")]),
    ('{"a": 1} {"a": 2}\n{"a": 3} x\n{"a": 4}', [1, 2, (2, 10, "'x' follows the row"), 4]),
    ('{"a": 1}\n' + '{"a":' * 100_000 + '\n{"a": 2}', [1, (2, 0, "nested too deeply to be a row"), 2]),
]


@pytest.mark.parametrize(("text", "expected"), DAMAGE)
def test_damage_is_where_it_is_and_reading_goes_on(path, text, expected):
    found = read(path, text)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, int):
            assert row.values == {"a": wanted}
        else:
            assert (row.line, row.column) == wanted[:2]
            assert row.cause.startswith(wanted[2])


def test_control_characters_and_newlines_inside_strings_are_text(path):
    assert values(read(path, '{"a": "x\ty\x00\x1bz"}\n{"a": "two\nlines"}\n{"a": 1}')) == [
        {"a": "x\ty\x00\x1bz"},
        {"a": "two\nlines"},
        {"a": 1},
    ]


def test_rows_under_a_key_have_their_lines_and_a_remark(path):
    remarks = []
    text = '{\n "info": {"version": 1},\n "data": [\n  {"a": 1},\n  {"a": 2}, 3\n ],\n "tags": []\n}'
    found = read(path, text, remark=remarks.append)
    assert values(found) == [{"a": 1}, {"a": 2}, "this item of the list is the number 3; a row is a JSON object {...}"]
    assert [row.line for row in found] == [4, 5, 5]
    assert remarks == [
        f"{path}: the rows are the list under 'data' of the one object in the file; not read: 'info', 'tags'"
    ]


def test_several_keys_with_rows_are_splits(path):
    text = '{"train": [{"a": 1}], "test": [{"a": 2}]}'
    assert values(read(path, text)) == [{"a": 1}]
    assert values(read(path, text, split="test")) == [{"a": 2}]
    with pytest.raises(DataError, match="has no rows under 'dev', but under keys 'train' and 'test'; set 'split'"):
        read(path, text, split="dev")
    with pytest.raises(DataError, match="has no rows under 'train', but under key 'test'; set 'split'"):
        read(path, '{"test": [{"a": 2}]}')


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]},
        {"conversations": [{"from": "human", "value": "hi"}], "chosen": {"from": "gpt", "value": "ho"}},
        {"chosen": {"role": "assistant"}, "rejected": {"role": "assistant"}},
        {"turns": ["one", "two"]},
        {"text": "one"},
        {},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_row_alone_is_a_row_and_wraps_nothing(path, row, indent):
    assert values(read(path, json.dumps(row, indent=indent))) == [row]


@pytest.mark.parametrize("content", [{"a": [1, 2], "b": ["x", None]}, {"one": {"a": 1}, "two": {"a": 2}}])
def test_columns_and_named_objects_are_no_rows(path, content):
    with pytest.raises(DataError, match=r":1: the file is one object of .*, with keys .*, not rows; write the rows as"):
        read(path, json.dumps(content, indent=1))


def test_a_row_without_an_end_is_not_read_into_memory(path, monkeypatch):
    monkeypatch.setattr(window, "MAX_ROW", 200_000)
    found = read(path, '{"a": 1}\n{"a": "' + "x" * 1_000_000 + '"}\n{"a": 2}\n')
    assert values(found) == [
        {"a": 1},
        f"a row of more than {options.MAX_ROW:,} characters, or one that does not end",
        {"a": 2},
    ]


@pytest.mark.parametrize("separator", [",", ",\n", "\n"])
def test_memory_holds_a_row_and_not_the_file(path, separator):
    rows = separator.join(['{"text": "' + "x" * 1000 + '"}'] * 20_000)
    path.write_text(f"[{rows}]" if "," in separator else rows)
    tracemalloc.start()
    try:
        assert sum(isinstance(row, Row) for row in json_rows(DataFile(str(path)), Options())) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
