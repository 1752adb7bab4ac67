"""The histogram of lengths: every row once, in few bins that are equally wide."""

from hypothesis import given
from hypothesis import strategies as st

from ftune.data.counts import MOST_BINS, Counts, bins_of

lengths_of_rows = st.lists(st.integers(1, 200_000), min_size=1, max_size=50)


@given(lengths_of_rows)
def test_each_length_is_in_the_bin_it_belongs_to(lengths: list[int]) -> None:
    bins = bins_of(lengths)
    lows = [each["low"] for each in bins]
    assert 1 <= len(bins) <= MOST_BINS
    width = lows[1] - lows[0] if len(lows) > 1 else max(lengths) + 1
    assert lows == [lows[0] + width * place for place in range(len(lows))]
    assert [each["count"] for each in bins] == [sum(low <= each < low + width for each in lengths) for low in lows]
    assert sum(each["count"] for each in bins) == len(lengths)
    assert bins[0]["count"]
    assert bins[-1]["count"]


def test_bins_are_as_narrow_as_they_may_be() -> None:
    assert [each["low"] for each in bins_of(range(40, 60))] == list(range(40, 60))
    assert [each["low"] for each in bins_of([40, 60])] == list(range(40, 61, 2))
    assert [each["low"] for each in bins_of([1, 2047])] == list(range(0, 2001, 200))


def test_counts_have_it_and_the_share_that_is_trained() -> None:
    counts = Counts(read=3)
    counts.measure([10, 12, 10], [5, 1, 4])
    assert counts.as_dict()["lengths"] == {
        "unit": "tokens",
        "bins": [{"low": 10, "count": 2}, {"low": 11, "count": 0}, {"low": 12, "count": 1}],
    }
    assert (counts.tokens, counts.trained_tokens, counts.trained_median) == (32, 10, 4)
    empty = Counts()
    empty.measure([], [])
    assert empty.lengths == {}


def test_lines_of_one_row_are_in_the_singular() -> None:
    counts = Counts(read=1, kept=1, truncated=1, control_text=2, empty_completions=1)
    told = counts.lines()
    assert told[0] == "1 row read, 1 kept"
    assert told[3:] == [
        "1 row cut to max_length",
        "1 answer is empty",
        "2 rows hold control tokens in the text, encoded as plain text",
    ]
