"""Packing: every row once, nothing over capacity, as tight as best fit decreasing is."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.data.intake import Rules
from ftune.data.mix import chained
from ftune.data.pack import pack
from ftune.data.prepare import prepare
from ftune.data.row import Row
from ftune.trainers.feed import PreparedDataset


def best_fit_by_brute_force(lengths, capacity):
    """The same rule by looking at every bin: sizes of the bins' contents, sorted."""
    bins = []
    for length in sorted(lengths, reverse=True):
        fitting = [held for held in bins if sum(held) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            bins.append([length])
    return sorted(sum(held) for held in bins)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_every_row_is_packed_once_as_tight_as_brute_force(lengths, capacity):
    bins = pack(lengths, capacity)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(rows == sorted(rows) for rows in bins)
    assert sorted(sum(lengths[row] for row in rows) for rows in bins) == best_fit_by_brute_force(lengths, capacity)
    assert all(sum(lengths[row] for row in rows) <= capacity for rows in bins)
    assert bins == pack(lengths, capacity)


def test_a_row_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="row 1 has 9 tokens, more than the 8"):
        pack([3, 9], 8)


def test_a_hundred_thousand_rows_take_seconds_at_most():
    draw = random.Random(0)  # noqa: S311 - lengths, no secret
    lengths = [min(2048, int(draw.lognormvariate(5, 0.8)) + 1) for _ in range(100_000)]
    start = time.process_time()
    bins = pack(lengths, 2048)
    assert time.process_time() - start < 5
    assert sum(lengths) / (len(bins) * 2048) > 0.97


def test_packed_rows_hold_every_token_in_order(smollm2):
    rows = [Row({"prompt": "sea " * n, "completion": "big"}, "rows.jsonl", n) for n in range(1, 12)]
    prepared = chained([prepare(rows, None, smollm2.tokenizer, None, Rules())])
    bins = pack(prepared.lengths.tolist(), int(prepared.lengths.max()) + 20)
    dataset = PreparedDataset(prepared, bins)
    assert len(dataset) < len(rows)
    for packed in (dataset[number] for number in range(len(dataset))):
        assert packed["seq_lengths"] == [prepared.lengths[index] for index in packed["row"]]
        starts = [sum(packed["seq_lengths"][:number]) for number in range(len(packed["row"]))]
        for start, length, index in zip(starts, packed["seq_lengths"], packed["row"], strict=True):
            assert packed["input_ids"][start : start + length].tolist() == prepared.ids(index)
            assert packed["labels"][start : start + length].tolist() == prepared.labels(index)
            assert packed["labels"][start] == -100
    assert sorted(index for rows in bins for index in rows) == list(range(len(rows)))
    assert dataset[0]["row"] == list(bins[0])


def test_unpacked_rows_stand_alone(smollm2):
    rows = [Row({"prompt": "sea " * n, "completion": "big"}, "rows.jsonl", n) for n in range(1, 4)]
    prepared = chained([prepare(rows, None, smollm2.tokenizer, None, Rules())])
    dataset = PreparedDataset(prepared)
    assert len(dataset) == 3
    for row in range(3):
        example = dataset[row]
        assert example["row"] == row
        assert example["input_ids"].tolist() == prepared.ids(row)
        assert example["labels"].tolist() == prepared.labels(row)
