"""The held-out split: repeatable, of the size asked for, and never the same row or group on both sides."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.split import split


def sides(keys, wanted, seed, groups=None):
    train, out = split(
        np.array(keys, np.uint64), wanted, seed, groups=None if groups is None else np.array(groups, np.uint64)
    )
    return train.tolist(), out.tolist()


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.floats(0.05, 0.95), st.integers(0, 99))
def test_no_row_is_on_both_sides(keys, fraction, seed):
    try:
        train, held_out = sides(keys, fraction, seed)
    except DataError:
        assume(False)
    assert sorted(train + held_out) == list(range(len(keys)))
    assert not {keys[index] for index in train} & {keys[index] for index in held_out}
    assert 0 < len(held_out) <= max(1, round(fraction * len(keys)))
    assert (train, held_out) == sides(keys, fraction, seed)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=2, max_size=60),
    st.floats(0.1, 0.9),
    st.integers(0, 9),
)
def test_neither_a_group_nor_a_row_is_on_both_sides(pairs, fraction, seed):
    keys, groups = zip(*pairs, strict=True)
    try:
        train, held_out = sides(keys, fraction, seed, groups)
    except DataError:
        assume(False)
    for values in (keys, groups):
        assert not {values[index] for index in train} & {values[index] for index in held_out}


def test_groups_that_share_a_row_are_one_group():
    with pytest.raises(DataError, match=r"cannot hold out 1 of 4 rows \(1 groups\)"):
        sides([1, 2, 2, 3], 1, 0, groups=[7, 7, 8, 8])
    assert sorted(map(len, sides([1, 2, 4, 3], 2, 0, groups=[7, 7, 8, 8]))) == [2, 2]


@given(st.integers(2, 60), st.data())
def test_a_count_of_different_rows_is_met_exactly(rows, data):
    count = data.draw(st.integers(1, rows - 1))
    train, held_out = sides(range(rows), count, 0)
    assert (len(train), len(held_out)) == (rows - count, count)


def test_another_seed_is_another_split():
    assert sides(range(100), 0.2, 1) != sides(range(100), 0.2, 2)


@pytest.mark.parametrize(("keys", "wanted"), [([1, 2], 0), ([1, 2], 2), ([1] * 4, 0.5), ([1, 2], 0.01)])
def test_an_empty_side_is_refused(keys, wanted):
    with pytest.raises(DataError, match="cannot hold out"):
        sides(keys, wanted, 0)


def test_rows_that_stay_are_never_held_out_nor_are_their_duplicates():
    stay = np.array([True, *[False] * 9])
    train, out = split(np.array([7, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.uint64), 5, 0, stay=stay)
    assert {0, 7} <= set(train.tolist())
    assert len(out) == 5
    with pytest.raises(DataError, match="cannot hold out"):
        split(np.arange(3, dtype=np.uint64), 1, 0, stay=np.ones(3, np.bool_))


def test_a_number_below_the_smallest_group_is_told_what_would_do() -> None:
    keys, groups = np.arange(12, dtype=np.uint64), np.arange(12, dtype=np.uint64) // 4
    with pytest.raises(DataError, match=r"hold out 3 of 12 rows \(3 groups\): the smallest of them has 4; hold out so"):
        split(keys, 3, 0, groups=groups)
    assert [len(side) for side in split(keys, 4, 0, groups=groups)] == [8, 4]
    with pytest.raises(DataError, match="both sides need at least one row"):
        split(keys, 12, 0, groups=groups)
