"""The report on a terminal: 80 columns, counts first, the verdict last, no colour codes where there is no colour."""

import pytest

from ftune.core.errors import DataError
from ftune.data.audit.audit import Audit, Measured
from ftune.data.audit.render import lines, render
from ftune.data.example import PromptCompletion


def report(rows=60, bad=4):
    audit = Audit(near_limit=10)
    for row in range(rows):
        example = PromptCompletion(f"Text {row} a@example.org", "yes" if row % 3 else "no")
        audit.take("train" if row % 10 else "held-out", f"data/rows.jsonl:{row + 1}", example, Measured(3 + row**2, 1))
    for row in range(bad):
        audit.take("train", f"data/rows.jsonl:{1000 + row}", DataError("'prompt' is missing"))
    return audit.report()


@pytest.mark.parametrize("width", [80, 60, 120])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(len(line.text) for line in lines(report(), width)) <= width


def test_the_order_of_things():
    text = render(report(), color=False).plain.splitlines()
    assert text[0].startswith("train: 58 rows read, 54 kept; ")
    assert text[1].startswith("held-out: 6 rows read, 6 kept; ")
    assert "4 dropped: 'prompt' is missing (data/rows.jsonl:1000, :1001, :1002, ...)" in text
    order = [
        next(number for number, line in enumerate(text) if line.startswith(start))
        for start in ("tokens a row: 3 at least", "answers:", "error ", "info ", "note: near duplicates", "1 finding")
    ]
    assert order == sorted(order)
    assert text[-1] == "1 finding"


def test_a_clean_report_ends_with_clean():
    assert render(report(bad=0), color=False).plain.splitlines()[-1] == "clean"


def test_an_audit_without_rows_can_be_shown():
    assert render(Audit().report(), color=False).plain.split() == ["clean"]


def test_bars_are_as_long_as_their_counts_and_any_count_is_seen():
    drawn = [line.text for line in lines(report(), 80, "#") if line.text.endswith("#")]
    assert all(line.isascii() for line in drawn)
    bins = [line for line in drawn if "-" in line]
    assert len(bins) > 5
    counts = {int(line.split()[1]): line.count("#") for line in bins}
    assert min(counts.values()) >= 1
    assert [counts[count] for count in sorted(counts)] == sorted(counts.values())


def test_styles_only_with_colour():
    assert not render(report(), color=False).spans
    assert render(report(), color=True).spans
