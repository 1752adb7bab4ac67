"""Streams: the rows of the sources, shuffled within a buffer, and the same from any position on."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data import stream as module
from ftune.data.checks import Checker
from ftune.data.encode import Encoder, understood
from ftune.data.intake import Rules
from ftune.data.mixing.concatenate import Concatenate
from ftune.data.mixing.interleave import Interleave
from ftune.data.row import Row
from ftune.data.stream import Position, Stream, shuffled
from ftune.data.tokenize import RowTokenizer

CONCATENATE, RULES, BEGINNING = Concatenate(), Rules(), Position()


def rows(number, size):
    return [Row({"text": f"row {number} {row} " + "sea " * (row % 5)}, f"{number}.jsonl", row) for row in range(size)]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)


@pytest.fixture(scope="session")
def streamed(smollm2):
    def make(*sizes, mix=CONCATENATE, buffer=5, capacity=None, seed=3, rules=RULES, given=None):
        sources = [rows(number, size) for number, size in enumerate(sizes)] if given is None else [given]
        tokenizer = RowTokenizer(smollm2.tokenizer)
        return Stream(
            sources=[lambda source=source: iter(source) for source in sources],
            encoders=[Encoder(understood(source, None, tolerant=True, seed=0)[0], tokenizer) for source in sources],
            weights=[1.0] * len(sources),
            mix=mix,
            rules=rules,
            checker=Checker(smollm2.tokenizer, len(smollm2.tokenizer)),
            buffer=buffer,
            seed=seed,
            capacity=capacity,
        )

    return make


def origins(stream, number, start=BEGINNING):
    return [sequence.origins for sequence in islice(stream.sequences(start), number)]


def test_each_epoch_has_every_row_once_in_another_order(streamed):
    seen = [origin for (origin,) in origins(streamed(10, 13), 46)]
    first, second = seen[:23], seen[23:]
    assert set(Counter(first).values()) == set(Counter(second).values()) == {1}
    assert set(first) == set(second)
    assert first != second
    assert first == [origin for (origin,) in origins(streamed(10, 13), 23)]
    assert first != [origin for (origin,) in origins(streamed(10, 13, seed=4), 23)]


@settings(max_examples=25, deadline=None)
@given(
    stop=st.integers(0, 70), capacity=st.sampled_from([None, 40]), mix=st.sampled_from([Concatenate(), Interleave()])
)
def test_going_on_from_any_position_is_as_if_never_stopped(streamed, stop, capacity, mix):
    whole = list(islice(streamed(11, 9, mix=mix, capacity=capacity).sequences(), stop + 12))
    position = whole[stop - 1].after if stop else Position()
    rest = list(islice(streamed(11, 9, mix=mix, capacity=capacity).sequences(position), 12))
    assert rest == whole[stop:]


def test_packed_sequences_hold_every_row_of_the_window(streamed):
    packed = list(islice(streamed(14, capacity=60).sequences(), 30))
    assert all(sum(len(row.input_ids) for row in sequence.rows) <= 60 for sequence in packed)
    assert any(len(sequence.rows) > 1 for sequence in packed)
    whole_windows = [sequence for sequence in packed if sequence.after.window < 2]
    assert Counter(origin for sequence in whole_windows for origin in sequence.origins) == Counter(
        f"0.jsonl:{row}" for row in range(14)
    )


def test_packed_sequences_of_a_window_are_not_sorted_by_the_length_of_their_rows(streamed, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 60)
    windows = [list(islice(streamed(60, capacity=40, seed=seed).sequences(), 15)) for seed in (3, 4)]
    for window in windows:
        assert {sequence.after.window for sequence in window} == {0}
        longest = [max(len(row.input_ids) for row in sequence.rows) for sequence in window]
        assert longest != sorted(longest, reverse=True)
    assert windows[0] != windows[1]


def test_faulty_rows_end_the_stream_or_are_counted(streamed):
    given = [*rows(0, 9), Row({"text": 5}, "bad.jsonl", 1)]
    with pytest.raises(DataError, match=r"bad.jsonl:1: 'text' is the number 5"):
        origins(streamed(given=given), 10)
    dropping = streamed(given=given, rules=Rules(on_bad_row="drop"))
    assert len({origin for (origin,) in origins(dropping, 18)}) == 9
    assert dropping.intake.counts.dropped["the row does not fit its format or template"] >= 1


def test_a_stream_that_gives_nothing_ends(streamed):
    with pytest.raises(DataError, match=r"gave nothing to train on \(longer than max_length\)"):
        origins(streamed(9, rules=Rules(max_length=2, on_long_row="drop")), 1)


@given(st.lists(st.integers()), st.integers(1, 20), st.integers(0, 5))
def test_shuffling_within_a_buffer_loses_nothing(values, buffer, seed):
    assert Counter(shuffled(iter(values), buffer, seed)) == Counter(values)
    place = {value: at for at, value in enumerate(range(100))}
    for at, value in enumerate(shuffled(iter(range(100)), buffer, seed)):
        assert place[value] - at < buffer
