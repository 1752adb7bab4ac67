"""CSV and TSV: what was written is read, and a damaged row costs its line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.data.readers import tables
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import Options
from ftune.data.row import BadRow, Row

CELLS = st.text(st.sampled_from('ab é,;"\t\n\x00'), max_size=6)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("tables") / "rows.csv"


def read(path, text, reader=tables.csv_rows, **how):
    path.write_text(text, encoding="utf-8", newline="")
    return list(reader(DataFile(str(path)), Options(**how)))


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]))
def test_written_rows_are_read_back_whatever_separates_them(path, cells, delimiter, line_end):
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second"), *cells])
    remarks = []
    rows = read(path, sink.getvalue(), remark=remarks.append)
    assert [tuple(row.values.values()) for row in rows] == cells
    ends = [2 + sum(text.count("\n") + 1 for pair in cells[:n] for text in ["".join(pair)]) for n in range(len(cells))]
    assert [row.line for row in rows] == ends
    assert len(remarks) == (delimiter != ",")


def test_broken_quotes_cost_the_line_where_the_row_begins(path):
    rows = read(path, 'a,b\n1,"2\n3,4\n5,"x"\n6,"7"8\n9,10\n11,"12\n13,14\n')
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert [row.values["a"] for row in rows if isinstance(row, Row)] == ["3", "5", "9", "13"]
    assert all("broken quoting in the row that begins here" in row.cause for row in rows if isinstance(row, BadRow))


def test_a_row_of_the_wrong_width_costs_itself(path):
    bad, good = read(path, "a,b\n1\n3,4\n")
    assert (bad.line, good.values) == (2, {"a": "3", "b": "4"})
    assert bad.cause.startswith("1 column, but the header has 2 (a, b)")


def test_an_unnamed_index_is_a_column(path):
    assert [row.values for row in read(path, ",text\n0,a\n")] == [{"": "0", "text": "a"}]


def test_a_line_without_an_end_stops_the_reading(path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROW", 20)
    good, bad = read(path, "a,b\n1,2\n" + "x" * 100)
    assert good.values == {"a": "1", "b": "2"}
    assert bad == BadRow(str(path), 3, 0, "a line of more than 20 characters; reading stopped")


@pytest.mark.parametrize("end", ["\n", ""])
def test_tabs_have_no_quoting_and_any_line_end(path, end):
    rows = read(path, f'text\tlabel\r\n"odd\t1\r\nit"s\t0{end}', tables.tsv_rows)
    assert [row.values for row in rows] == [{"text": '"odd', "label": "1"}, {"text": 'it"s', "label": "0"}]
