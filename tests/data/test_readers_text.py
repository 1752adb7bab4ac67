"""Text files: documents, paragraphs and lines, and nothing of the text lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.data.readers import text as reader
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import BadRow

TEXT = st.text(st.sampled_from("ab é\t\n\n\n"), max_size=60)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("text") / "a.txt"


def read(path, text, **how):
    path.write_text(text, encoding="utf-8", newline="")
    return list(reader.text_rows(DataFile(str(path)), Options(**how)))


@given(TEXT, st.integers(1, 30))
def test_the_pieces_of_a_file_are_its_text(path, text, piece):
    remarks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "PIECE", piece)
        rows = read(path, text, remark=remarks.append)
    pieces = [row.values["text"] for row in rows]
    assert "".join(pieces) == (text if text.strip() else "")
    assert all(each.strip() for each in pieces)
    assert all(len(each.strip()) <= piece for each in pieces)
    assert [row.line for row in rows] == [1 + "".join(pieces[:n]).count("\n") for n in range(len(rows))]
    if rows:
        assert remarks == [f"{path}: {len(text.splitlines()):,} lines"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two\n\nthree\nfour five six", ["one two\n\n", "three\n", "four five six"]),
        ("one\ntwo three fours", ["one\n", "two three ", "fours"]),
        ("onetwothreefour fives", ["onetwothreefou", "r fives"]),
    ],
)
def test_a_long_file_is_cut_at_blank_lines_or_else_at_line_ends(path, monkeypatch, text, pieces):
    monkeypatch.setattr(reader, "PIECE", 14)
    assert [row.values["text"] for row in read(path, text)] == pieces


@given(TEXT)
def test_paragraphs_and_lines(path, text):
    remarks = []
    rows = read(path, text, documents="line", remark=remarks.append)
    lines = text.split("\n")
    assert [(row.values["text"], row.line) for row in rows] == [
        (line, number) for number, line in enumerate(lines, 1) if line.strip()
    ]
    assert remarks == [f"{path}: {len(text.splitlines()):,} lines"]
    stretches = read(path, text, documents="blank_line")
    assert [line for row in stretches for line in row.values["text"].split("\n")] == [
        row.values["text"] for row in rows
    ]
    for row in stretches:
        assert row.line == 1 or not lines[row.line - 2].strip()
        assert lines[row.line - 1] == row.values["text"].split("\n")[0]
    blank_before = [not lines[row.line - 2].strip() for row in rows if row.line > 1]
    assert len(stretches) == sum(blank_before) + any(row.line == 1 for row in rows)


def test_line_ends_of_all_systems(path):
    assert [row.values["text"] for row in read(path, "one\r\n\r\ntwo\rthree")] == ["one\n\ntwo\nthree"]
    assert [row.line for row in read(path, "one\r\n\r\ntwo\rthree", documents="line")] == [1, 3, 4]


@pytest.mark.parametrize("documents", ["line", "blank_line"])
def test_a_line_without_an_end_stops_the_reading(path, monkeypatch, documents):
    monkeypatch.setattr(reader, "MAX_ROW", 10)
    first, last = read(path, "short\n" + "x" * 50, documents=documents)
    assert first.values == {"text": "short"}
    assert last == BadRow(str(path), 2, 0, "a line of more than 10 characters; reading stopped")
