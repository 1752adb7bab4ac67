"""Mixing: the shares that were asked for, nothing lost where nothing may be, and the same mixture for the same seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.variants import variants_of
from ftune.data.mixing.base import Mix
from ftune.data.mixing.concatenate import Concatenate
from ftune.data.mixing.interleave import Interleave
from ftune.data.mixing.proportional import Proportional

sources = st.lists(st.tuples(st.integers(1, 300), st.floats(0.1, 5)), min_size=1, max_size=5)


def taken(order, sizes):
    """How often each row of each source is taken."""
    which, rows = order
    counts = [np.bincount(rows[which == number], minlength=size) for number, size in enumerate(sizes)]
    assert sum(map(np.sum, counts)) == len(which)
    return counts


@pytest.mark.parametrize("name", variants_of(Mix))
@given(sources, st.integers(0, 9))
def test_the_same_seed_gives_the_same_rows_and_all_are_there(name, pairs, seed):
    sizes, weights = zip(*pairs, strict=True)
    mix = variants_of(Mix)[name]()
    which, rows = mix.order(sizes, weights, seed)
    again = mix.order(sizes, weights, seed)
    assert np.array_equal(which, again[0])
    assert np.array_equal(rows, again[1])
    assert all(row < sizes[source] for source, row in zip(which.tolist(), rows.tolist(), strict=True))


@given(sources)
def test_concatenate_takes_each_row_as_often_as_its_weight_says(pairs):
    sizes, weights = zip(*pairs, strict=True)
    for counts, size, weight in zip(taken(Concatenate().order(sizes, weights, 3), sizes), sizes, weights, strict=True):
        assert set(counts.tolist()) <= {int(weight), int(weight) + 1}
        assert counts.sum() == int(weight) * size + round((weight % 1) * size)


def test_interleave_has_the_weights_within_sampling_error():
    weights = [1.0, 2.0, 5.0]
    which, _ = Interleave(stop="first").order([20_000, 20_000, 20_000], weights, 1)
    shares = np.bincount(which) / len(which)
    for share, weight in zip(shares, weights, strict=True):
        expected = weight / sum(weights)
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(which))


@given(sources, st.integers(0, 9))
def test_interleave_stops_where_it_should(pairs, seed):
    sizes, weights = zip(*pairs, strict=True)
    first = taken(Interleave(stop="first").order(sizes, weights, seed), sizes)
    assert sum(counts.sum() == size for counts, size in zip(first, sizes, strict=True)) == 1
    assert all(counts.max() <= 1 for counts in first)
    every = taken(Interleave(stop="all").order(sizes, weights, seed), sizes)
    assert all(counts.min() >= 1 for counts in every)
    assert min(counts.sum() / size for counts, size in zip(every, sizes, strict=True)) == 1


def test_proportional_counts_no_source_above_its_cap():
    sizes = [10_000, 3_000, 100]
    assert [counts.sum() for counts in taken(Proportional(cap=3000).order(sizes, [1, 1, 1], 0), sizes)] == [
        3000,
        3000,
        100,
    ]
    assert [counts.sum() for counts in taken(Proportional().order(sizes, [1, 1, 1], 0), sizes)] == sizes


def test_proportional_gets_more_equal_with_temperature():
    sizes = [8000, 1000]
    warm = [counts.sum() for counts in taken(Proportional(temperature=3).order(sizes, [1, 1], 0), sizes)]
    assert warm == [6000, 3000]
    heavy = [counts.sum() for counts in taken(Proportional(cap=1000).order(sizes, [3, 1], 0), sizes)]
    assert heavy == [1500, 500]


def opened(*sizes):
    return [
        lambda number=number, size=size: iter([f"{number}.{row}" for row in range(size)])
        for number, size in enumerate(sizes)
    ]


def test_streamed_concatenation_is_source_after_source():
    assert list(Concatenate().stream(opened(2, 1), [2, 1], 0)) == [
        (0, "0.0"), (0, "0.1"), (0, "0.0"), (0, "0.1"), (1, "1.0"),
    ]  # fmt: skip
    half = Counter(number for number, _ in Concatenate().stream(opened(4000, 10), [0.5, 1], 0))
    assert 1800 < half[0] < 2200
    assert half[1] == 10


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.2, 4)), min_size=1, max_size=4), st.integers(0, 9))
def test_streamed_turns_are_those_of_known_sources(pairs, seed):
    sizes, weights = zip(*pairs, strict=True)
    for stop in ("first", "all"):
        which, rows = Interleave(stop=stop).order(sizes, weights, seed)
        expected = [f"{source}.{row}" for source, row in zip(which.tolist(), rows.tolist(), strict=True)]
        streamed = [row for _, row in Interleave(stop=stop).stream(opened(*sizes), weights, seed)]
        assert streamed[: len(expected)] == expected


def test_a_way_that_needs_sizes_says_that_it_cannot_stream():
    assert [name for name, mix in variants_of(Mix).items() if not mix.streams] == ["proportional"]
