"""The held-out split: repeatable, of the size asked for, and never the same row on both sides."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.split import split


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.floats(0.05, 0.95), st.integers(0, 99))
def test_no_row_is_on_both_sides(keys, fraction, seed):
    try:
        train, held_out = split(keys, fraction, seed)
    except DataError:
        assume(False)
    assert sorted(train + held_out) == list(range(len(keys)))
    assert not {keys[index] for index in train} & {keys[index] for index in held_out}
    assert 0 < len(held_out) <= max(1, round(fraction * len(keys)))
    assert (train, held_out) == split(keys, fraction, seed)


@given(st.integers(2, 60), st.data())
def test_a_count_of_different_rows_is_met_exactly(rows, data):
    count = data.draw(st.integers(1, rows - 1))
    train, held_out = split(range(rows), count, 0)
    assert (len(train), len(held_out)) == (rows - count, count)


def test_another_seed_is_another_split():
    assert split(range(100), 0.2, 1) != split(range(100), 0.2, 2)


@pytest.mark.parametrize(("keys", "wanted"), [("ab", 0), ("ab", 2), ("aaaa", 0.5), ("", 1), ("ab", 0.01)])
def test_an_empty_side_is_refused(keys, wanted):
    with pytest.raises(DataError, match="cannot hold out"):
        split(keys, wanted, 0)
