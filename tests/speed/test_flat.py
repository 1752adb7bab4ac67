"""Flat batches: all tokens of all rows, borders where rows begin, and few sizes where that is wanted."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftune.speed.flat import FlatCollator, step_of


def examples_of(lengths: list[list[int]]) -> list[dict[str, Any]]:
    """One example for each list of lengths; numbers say which token it is."""
    made, first = [], 1
    for seq_lengths in lengths:
        ids = list(range(first, first + sum(seq_lengths)))
        first += len(ids)
        made.append({"input_ids": ids, "labels": [-100 if token % 3 == 0 else token for token in ids]})
        if len(seq_lengths) > 1:
            made[-1]["seq_lengths"] = seq_lengths
    return made


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_a_flat_batch_is_that_of_trl(lengths: list[int], packed: bool) -> None:
    examples = examples_of([lengths]) if packed else examples_of([[length] for length in lengths])
    found = FlatCollator()(examples)
    expected = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(examples)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name
        assert not torch.is_tensor(value) or found[name].dtype == value.dtype, name


@given(st.lists(st.integers(1, 90), min_size=1, max_size=9))
def test_a_rounded_batch_ends_in_a_row_without_labels(lengths: list[int]) -> None:
    examples = examples_of([[length] for length in lengths])
    exact, rounded = FlatCollator()(examples), FlatCollator(rounded=True)(examples)
    tokens, size = sum(lengths), rounded["input_ids"].shape[1]
    assert size % step_of(tokens) == 0
    assert 0 <= size - tokens < step_of(tokens)
    for name in ("input_ids", "labels", "position_ids", "seq_idx"):
        assert torch.equal(rounded[name][:, :tokens], exact[name])
    assert (rounded["labels"][:, tokens:] == -100).all()
    borders = rounded["cu_seq_lens_q"]
    assert torch.equal(borders[: len(lengths) + 1], exact["cu_seq_lens_q"])
    assert (int(borders[-1]), len(borders)) == (size, len(lengths) + 1 + (size > tokens))
    assert int(borders.diff().max()) <= rounded["max_length_q"]


def test_a_step_is_a_small_share_of_many_tokens() -> None:
    assert {step_of(tokens) for tokens in (1, 16, 2047)} == {16}
    assert [step_of(tokens) for tokens in (2048, 4095, 4096, 16_384)] == [32, 32, 64, 256]


def test_all_batches_can_tell_of_one_longest_row() -> None:
    examples = examples_of([[2], [3]])
    assert [FlatCollator(longest)(examples)["max_length_q"] for longest in (0, 2, 9)] == [3, 3, 9]
