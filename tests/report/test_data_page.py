"""The page of a data check: one file without links to the outside, with everything in it escaped."""

import xml.dom.minidom
from html.parser import HTMLParser

import pytest

from ftune.report.data_page import data_page

NASTY = "<script>alert('$x$ & y')</script>"


def report(**changes):
    """A report as `ftune data check` gives it."""
    place = f"data/{NASTY}.jsonl:7"
    return {
        "parts": [
            {"part": "train", "read": 1200, "kept": 1000, "tokens": 50_000, "trained_tokens": 20_000},
            {"part": "held-out", "read": 100, "kept": 100, "tokens": 5_000, "trained_tokens": 2_000},
        ],
        "dropped": [{"cause": NASTY, "count": 200, "places": [place]}],
        "lengths": {
            "unit": "tokens",
            "bins": [{"low": 8, "high": 11, "count": 600}, {"low": 12, "high": 15, "count": 500}],
            "shortest": 8,
            "median": 11,
            "p99": 15,
            "longest": 15,
            "longest_place": place,
        },
        "balances": [{"name": "answers", "shares": [[NASTY, 900], ["負", 200]]}],
        "findings": [
            {"id": "x", "severity": "warn", "count": 3, "what": NASTY, "todo": "Look at them.", "places": [place]}
        ],
        "notes": [NASTY],
        "strict": 1,
        "verdict": "1 finding",
    } | changes


class Tags(HTMLParser):
    """Collects the tags, the attributes and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):  # noqa: D102
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):  # noqa: D102
        self.text += data


def test_what_the_page_says():
    text = Tags(data_page(report(), "Data check")).text
    for part in ("Data check", "1 finding", "1,200", "20,000", "Look at them.", ".jsonl:7", "負", "dropped"):
        assert part in text


def test_nothing_of_a_row_is_markup():
    page = data_page(report(), NASTY)
    assert "script" not in Tags(page).tags
    assert Tags(page).text.count("alert('$x$ & y')") >= 7


def test_one_small_file_that_works_offline():
    page = data_page(report(balances=[{"name": "n", "shares": [[str(n), n + 1] for n in range(20)]}] * 3), "Check")
    assert len(page.encode()) < 300_000
    assert {"img", "link", "iframe", "object"}.isdisjoint(Tags(page).tags)
    links = [value for name, value in Tags(page).attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page


def test_the_plots_are_whole_and_share_no_id():
    page = data_page(report(), "Check")
    plots = [f"<svg{rest.split('</svg>')[0]}</svg>" for rest in page.split("<svg")[1:]]
    assert len(plots) == 3
    for plot in plots:
        xml.dom.minidom.parseString(plot)  # noqa: S318 - our own
    attributes = Tags(page).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = [value[1:] for name, value in attributes if name in ("href", "xlink:href")]
    used += [value[5:-1] for _, value in attributes if value and value.startswith("url(#")]
    assert used
    assert set(used) <= set(ids)


def test_equal_reports_give_equal_pages():
    assert data_page(report(), "Check") == data_page(report(), "Check")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_report_with_nothing_but_rows(parts):
    bare = report(dropped=[], lengths=None, balances=[], findings=[], notes=[], strict=0, verdict="clean")
    page = data_page(bare | {"parts": bare["parts"][:parts]}, "Check")
    assert page.count("<svg") == 1
    assert "clean" in page
    assert "Balance" not in page
    assert "Length" not in page
